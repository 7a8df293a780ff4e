"""The native form of a cast: out of an adapter's file into the type of the pool's rows, in one call.

Owns its signature. To call torch takes longer than to cast a small matrix, and a cast takes several calls.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

# As `kind` of casting.cpp.
_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class NativeCast:
    """A Cast over a built library, into float32 or bfloat16."""

    def __init__(self, path: Path) -> None:
        self._cast = ctypes.CDLL(str(path)).lorry_cast
        self._cast.argtypes = (c_void_p, c_int, c_int64, c_int64, c_int, c_float, c_void_p, c_int)
        self._cast.restype = c_int64

    def __call__(self, tensor: Tensor, into: Tensor, scale: float, *, turned: bool) -> bool:
        """See Cast."""
        narrow = into.dtype == torch.bfloat16
        source, target = tensor.data_ptr(), into.data_ptr()
        return not self._cast(source, _KINDS[tensor.dtype], *tensor.shape, turned, scale, target, narrow)
