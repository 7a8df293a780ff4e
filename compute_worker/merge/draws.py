"""Which entries DARE keeps: random numbers that are the recipe's own.

Owns the draw. It is a function of (seed, module, side, source) and the entry's place alone: counter-based
(Philox, arXiv: Salmon et al. 2011, as numpy keeps its raw stream for good), so neither the machine, nor
the number of threads, nor what else is drawn moves it. Does not know what is pruned.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_KEY_BYTES = 16  # Philox4x64 takes 128 bits


def key_of(seed: int, *names: str) -> int:
    """The generator's key for the recipe's seed and a place in it."""
    return int.from_bytes(hashlib.sha256("\n".join((str(seed), *names)).encode()).digest()[:_KEY_BYTES])


def draw(shape: torch.Size, density: float, key: int) -> Tensor:
    """True with probability `density` (to 2^-32), by entry in row order; density is below 1."""
    count = shape.numel()
    words = np.random.Philox(key=key).random_raw(-(-count // 2))
    # Two draws a word, the low half first on every machine.
    draws = words.astype("<u8", copy=False).view("<u4")[:count]
    return torch.from_numpy(draws < int(density * (1 << 32))).reshape(shape)
