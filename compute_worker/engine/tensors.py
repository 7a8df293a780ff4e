"""Tensors out of an adapter's file, checked: there, of the shape that was announced, finite in the type wanted.

Owns the checks and their words. Does not know what a tensor is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lorry.errors import IncompatibleAdapter, InvalidAdapter

# As the header calls them; little endian, as all that torch runs on.
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def taken(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor as it is in the file. Raises InvalidAdapter where there is none, IncompatibleAdapter for its shape."""
    if name not in tensors:
        raise InvalidAdapter(f"expected a tensor {name}, the file has none")
    if tuple(tensors[name].shape) != shape:
        raise IncompatibleAdapter(f"{name}: expected shape {list(shape)}, got {list(tensors[name].shape)}")
    return tensors[name]


def cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """In `dtype`, contiguous and finite: the pool multiplies other requests' zeros with whatever it holds.

    Raises InvalidAdapter.
    """
    made = tensor.to(dtype).contiguous()
    # NaN and infinities survive a sum, which takes a quarter of the time; one that overflows by itself is looked into.
    if not (math.isfinite(float(made.sum(dtype=torch.float32))) or bool(torch.isfinite(made).all())):
        raise InvalidAdapter(f"{name}: expected values that are finite in {str(dtype).removeprefix('torch.')}")
    return made
