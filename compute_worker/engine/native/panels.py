"""Weights as the native kernels read them: panels of rows, in memory of their own.

Owns the choice of bits: bfloat16 wherever it holds every number of a matrix exactly, so that float32 weights
that were published in bfloat16 are read in half the time; in pairs where activations may be rounded too. Does not
know what a panel looks like.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from compute_worker.engine.kernels import Packed
from compute_worker.engine.memory import Arena
from lorry.errors import Internal

SIGNATURES = {
    "lorry_pack": (c_void_p, c_void_p, c_int, c_int64, c_int64, c_int),
    "lorry_unpack": (c_void_p, c_void_p, c_void_p, c_int, c_int64, c_int64, c_int),
}


class Stored(IntEnum):
    """As `Stored` of step.h."""

    WIDE = 0
    NARROW = 1
    PAIRS = 2


@dataclass(frozen=True, slots=True)
class Panels:
    """A matrix in panels. memory: bytes. matrix: itself in bfloat16, where the CPU has units for its products."""

    library: ctypes.CDLL = field(repr=False)
    shape: tuple[int, int]
    stored: Stored
    memory: Tensor
    matrix: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """See Packed."""
        numbers = self.shape[0] * _row_bytes(self.shape[1], self.stored)
        return numbers + (0 if self.matrix is None else self.matrix.nbytes)

    def rows(self) -> Tensor:
        """See Packed."""
        # One thread: loaders ask, and OpenMP keeps a team for every thread that ever computed with more.
        return self._unpacked(torch.arange(self.shape[0]), 1)

    def lookup(self, ids: Tensor) -> Tensor:
        """See Packed."""
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.shape[0]:
            raise IndexError(f"expected rows below {self.shape[0]}, got {int(ids.min())} to {int(ids.max())}")
        return self._unpacked(ids.contiguous(), torch.get_num_threads())

    def _unpacked(self, ids: Tensor, threads: int) -> Tensor:
        rows = torch.empty(len(ids), self.shape[1])
        places = self.memory.data_ptr(), ids.data_ptr(), rows.data_ptr()
        self.library.lorry_unpack(*places, self.stored, *rows.shape, threads)
        return rows


def pack(library: ctypes.CDLL, arena: Arena, weight: Tensor, dtype: torch.dtype, *, pairs: bool) -> Panels:
    """Copy a matrix [n, k] into panels, rounded to `dtype`. pairs: in these, where that is bfloat16."""
    wide = weight.to(dtype).float().contiguous()
    n, k = wide.shape
    narrow = Stored.NARROW if dtype == torch.bfloat16 or _is_exact(wide) else Stored.WIDE
    stored = Stored.PAIRS if pairs and dtype == torch.bfloat16 else narrow
    width = library.lorry_panel()
    memory = arena.take(-(-n // width) * width * _row_bytes(k, stored))
    library.lorry_pack(wide.data_ptr(), memory.data_ptr(), stored, n, k, torch.get_num_threads())
    return Panels(library, (n, k), stored, memory)


def _row_bytes(k: int, stored: Stored) -> int:
    """Of one row: an odd one in pairs is filled up."""
    return (4, 2, 2)[stored] * (k + k % 2 if stored is Stored.PAIRS else k)


def panels_of(weight: Packed) -> Panels:
    """It, as these kernels packed it."""
    if not isinstance(weight, Panels):
        raise Internal(f"expected a matrix in panels, got {type(weight).__name__}")
    return weight


def is_narrow(tensor: Tensor) -> bool:
    """Whether it is stored in bfloat16 and not in float32."""
    return tensor.dtype == torch.bfloat16


def _is_exact(weight: Tensor) -> bool:
    """Whether bfloat16 holds every number: the lower halves of the words are zero."""
    return not bool((weight.view(torch.int16)[..., ::2]).any())
