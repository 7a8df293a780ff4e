"""Large tensors that a budget reserves and use fills.

Owns how they are allocated. Does not know what they hold.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def reserve(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On the CPU a page takes physical memory when it is first written, so a budget costs what is used of it."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # torch.zeros writes every page; numpy asks the kernel for zero pages, and has no bfloat16.
    raw = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)
