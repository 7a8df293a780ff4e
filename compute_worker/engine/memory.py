"""Large tensors: those that a budget reserves and use fills, and those that every step reads.

Owns how they are allocated, that their pages can be had beforehand, and that freed memory goes back to the system.
Does not know what they hold.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Callable
from ctypes import c_int, c_size_t, c_void_p
from functools import cache

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


# From here on memory is a mapping of its own, which the system has back as soon as it is freed.
_LARGE = 1 << 20


def passing(nbytes: int) -> Tensor:
    """So many bytes on the CPU, whatever they hold, for what comes and goes.

    glibc keeps what large blocks were freed of: 32 adapters that had come and gone left 180 MB in its arenas.
    """
    if nbytes < _LARGE or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(nbytes, dtype=torch.uint8)
    mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(mapping, dtype=torch.uint8)


def give_back() -> None:
    """Return freed memory to the system: glibc keeps some 100 MB of what loading a base was through with.

    Behind the loads of 32 adapters it is some 10 MB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # another libc has none, and keeps less
    if trim is not None:
        trim(0)


# MADV_POPULATE_WRITE, of Linux 5.14.
_POPULATE = 23


def populate(tensor: Tensor) -> None:
    """Have all memory of a contiguous tensor on the CPU now, and not when it is first written. Nothing of it changes.

    A page that was never written takes a microsecond or more. Where the system cannot do it, nothing is done.
    """
    if sys.platform == "linux" and tensor.nbytes:
        begin = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        _advise()(begin, tensor.data_ptr() + tensor.nbytes - begin, _POPULATE)


@cache
def _advise() -> Callable[[int, int, int], int]:
    advise: Callable[[int, int, int], int] = ctypes.CDLL(None).madvise
    advise.argtypes = (c_void_p, c_size_t, c_int)  # type: ignore[attr-defined]  # ctypes knows no types of functions
    return advise


# Of the address space that an arena asks for at once; what is not used of it takes no memory.
_PIECE = 64 << 20
# Bytes of a cache line, so that no two tensors share one.
_LINE = 64


class Arena:
    """Memory for tensors that are read over and over: in pages of 2 MB where the system has them.

    A processor's prefetching ends with each page, and so does the reach of its table of addresses.
    """

    def __init__(self) -> None:
        self._piece = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, nbytes: int) -> Tensor:
        """So many bytes, all zero, for good."""
        if self._used + nbytes > len(self._piece):
            self._piece, self._used = _piece(max(nbytes, _PIECE)), 0
        taken = self._piece[self._used : self._used + nbytes]
        self._used += -(-nbytes // _LINE) * _LINE
        return taken


def _piece(nbytes: int) -> Tensor:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(nbytes, dtype=torch.uint8)
    # Private: memory that could be shared is a file's to the system, and has small pages whatever is advised.
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
