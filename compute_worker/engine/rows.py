"""An adapter's pool rows as the host keeps them: one piece of memory, filled matrix by matrix.

Owns where in it a matrix lies, and the cast that brings it there: widened, scaled and rounded once, and
found finite in the type wanted. Does not know modules, nor what a matrix is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

from compute_worker.engine.memory import passing, populate
from compute_worker.engine.native import library
from compute_worker.engine.native.casting import NativeCast
from lorry.errors import InvalidAdapter

# Bytes of a cache line, so that no two matrices share one.
_LINE = 64


class Cast(Protocol):
    """How a matrix of a file gets into a pool's type."""

    def __call__(self, tensor: Tensor, into: Tensor, scale: float, *, turned: bool) -> bool:
        """Write a contiguous matrix times `scale` into another, which is as it is or turned; both on the CPU.

        Computed in float32, rounded once. Answers whether all of the result is finite.
        """


def torch_cast(tensor: Tensor, into: Tensor, scale: float, *, turned: bool) -> bool:
    """The general Cast."""
    wide = tensor.T if turned else tensor
    into.copy_(wide if scale == 1 else wide.float() * scale)
    # NaN and infinities survive a sum, which takes a quarter of the time; one that overflows by itself is looked into.
    return math.isfinite(float(into.sum(dtype=torch.float32))) or bool(torch.isfinite(into).all())


@cache
def cast_for(dtype: torch.dtype) -> Cast:
    """The fastest into this type, here."""
    path = library()
    return NativeCast(path) if path is not None and dtype in {torch.float32, torch.bfloat16} else torch_cast


def room_for(shapes: Iterable[tuple[int, int]], dtype: torch.dtype) -> int:
    """Bytes that matrices of these shapes take."""
    return sum(_taken(math.prod(shape), dtype) for shape in shapes) * dtype.itemsize


class HostRows:
    """Of one adapter, in `dtype`. memory: bytes, as many as `room_for` says of all that will be put there."""

    def __init__(self, memory: Tensor, dtype: torch.dtype) -> None:
        self._numbers = memory.view(dtype)
        self._cast = cast_for(dtype)
        self._at = 0

    def put(self, tensor: Tensor, name: str, scale: float = 1.0, *, turned: bool = False) -> Tensor:
        """A matrix times `scale`, here. Raises InvalidAdapter where it is not finite in this type.

        The pool multiplies other requests' zeros with whatever it holds.
        """
        rows, columns = tensor.shape[::-1] if turned else tensor.shape
        into = self._numbers.as_strided((rows, columns), (columns, 1), self._at)
        self._at += _taken(rows * columns, into.dtype)
        if not self._cast(tensor, into, scale, turned=turned):
            dtype = str(into.dtype).removeprefix("torch.")
            raise InvalidAdapter(f"{name}: expected values that are finite in {dtype}")
        return into


class Spare:
    """Memory for the next adapter, got before it comes: to get it takes longer than to fill it. Any thread.

    Where two came that were as large, the third most often is, too.
    """

    def __init__(self) -> None:
        self._turn = Lock()
        self._last = 0
        self._expected = 0
        self._ready: Tensor | None = None

    def take(self, size: int) -> Tensor:
        """So many bytes, whatever they hold."""
        with self._turn:
            ready, self._ready = self._ready, None
            self._expected = size if size == self._last else 0
            self._last = size
        return ready if ready is not None and len(ready) == size else passing(size)

    def prepare(self) -> None:
        """Get the next. Whoever takes it before all of it is there may write to it meanwhile."""
        with self._turn:
            if self._ready is not None or not self._expected:
                return
            memory = self._ready = passing(self._expected)
        populate(memory)


def _taken(numbers: int, dtype: torch.dtype) -> int:
    """As many numbers, and what is left of the last line."""
    line = _LINE // dtype.itemsize
    return -(-numbers // line) * line
