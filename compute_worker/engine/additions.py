"""What the adapters of a step add to each product, as plain values and as tables of addresses.

Owns the values, and that tables are made once for as long as the batch uses the same adapters. Does not
know which adapters there are, nor who computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class GroupedCell:
    """Tokens [begin, end) use pool rows [first, first + rank) of segment `segment` times `weight`."""

    segment: int
    begin: int
    end: int
    first: int
    rank: int
    weight: float

    @property
    def room(self) -> int:
        """Numbers between the two products."""
        return self.rank * (self.end - self.begin)


@dataclass(frozen=True, slots=True, eq=False)
class Touch:
    """Behind the cells: tokens [begin, end) of a segment become y * gain + weight * shift.

    gain, shift: [out] of the segment, float32; None for 1 and 0.
    """

    segment: int
    begin: int
    end: int
    gain: Tensor | None
    shift: Tensor | None
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Added:
    """What is added to one product: y += weight * (x a^T) b for each cell, then the touches in their order."""

    cells: tuple[GroupedCell, ...] = ()
    touches: tuple[Touch, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.cells or self.touches)

    @cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """`Cell` and `Touch` of step.h; z is where the cell's rank * tokens numbers begin."""
        cells, z = [], 0
        for cell in self.cells:
            cells.append((cell.segment, cell.begin, cell.end, cell.first, cell.rank, z, cell.weight))
            z += cell.room
        touches = [(t.segment, t.begin, t.end, _at(t.gain), _at(t.shift), t.weight) for t in self.touches]
        return np.array(cells, dtype=_row(6)), np.array(touches, dtype=_row(5))


def _row(integers: int) -> np.dtype[np.void]:
    return np.dtype([*((f"i{index}", "<i8") for index in range(integers)), ("weight", "<f8")])


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@dataclass(frozen=True, eq=False)
class Additions:
    """Of all products of a model."""

    products: Sequence[Added] = ()

    def __bool__(self) -> bool:
        return any(self.products)

    @cached_property
    def table(self) -> np.ndarray:
        """`Added` of step.h, for each product."""
        rows = []
        for added in self.products:
            cells, touches = added.tables
            rows.append((cells.ctypes.data, len(cells), touches.ctypes.data, len(touches)))
        return np.array(rows, dtype=np.int64).reshape(-1, 4)

    @cached_property
    def room(self) -> int:
        """Numbers between the two products, of the product that needs most."""
        return max((sum(cell.room for cell in added.cells) for added in self.products), default=0)
