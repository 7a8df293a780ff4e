"""Which matrix products a module's adapters take: the cells of M, covered by rectangles at least cost.

M is [tokens, pool rows]; an adapter that is active for a run of tokens fills a cell of it. Each
rectangle over cells is one pair of products. Owns that choice. Does not know tensors or modules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce


@dataclass(frozen=True, slots=True)
class Cell:
    """Tokens [begin, end) use pool rows [first, last) times `weight`."""

    begin: int
    end: int
    first: int
    last: int
    weight: float


@dataclass(frozen=True, slots=True)
class Rectangle:
    """One pair of products over tokens [begin, end) and pool rows [first, last).

    What lies between its cells is computed, and masked before it can be seen.
    """

    begin: int
    end: int
    first: int
    last: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Costs:
    """What things cost on a device, in multiply-adds.

    call: a pair of products, however small. read: one number of A or B out of memory.
    """

    call: float
    read: float


# Measured on one core with AVX512 in bfloat16: 12 us a pair of small products at 100 G multiply-adds/s; 15 GB/s.
CPU_COSTS = Costs(call=1.2e6, read=13)
# Three kernel launches of 5 us at 100 T multiply-adds/s; 2 TB/s. From data sheets, not measured.
GPU_COSTS = Costs(call=1.5e9, read=100)


def cover(cells: Iterable[Cell], features: int, costs: Costs) -> tuple[Rectangle, ...]:
    """Rectangles that hold every cell exactly once, neighbours merged while that makes the sum cheaper.

    features: numbers of A and B in one pool row. Cells come ordered by token, so that batches sorted
    by adapter give neighbours that lie close in rows too; one pass then finds the diagonal.
    """
    return tuple(reduce(lambda done, cell: _add(done, cell, features, costs), cells, []))


def _add(done: list[Rectangle], cell: Cell, features: int, costs: Costs) -> list[Rectangle]:
    alone = Rectangle(cell.begin, cell.end, cell.first, cell.last, (cell,))
    if done:
        merged = _merge(done[-1], alone)
        apart = _cost(done[-1], features, costs) + _cost(alone, features, costs)
        if _cost(merged, features, costs) <= apart:
            done[-1] = merged
            return done
    done.append(alone)
    return done


def _merge(one: Rectangle, other: Rectangle) -> Rectangle:
    return Rectangle(
        min(one.begin, other.begin),
        max(one.end, other.end),
        min(one.first, other.first),
        max(one.last, other.last),
        one.cells + other.cells,
    )


def _cost(rectangle: Rectangle, features: int, costs: Costs) -> float:
    tokens, rows = rectangle.end - rectangle.begin, rectangle.last - rectangle.first
    return costs.call + rows * (tokens + costs.read) * features
