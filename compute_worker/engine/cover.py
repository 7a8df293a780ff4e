"""Which matrix products a module's adapters take: the cells of M, covered by rectangles at least cost.

M is [tokens, pool rows]; an adapter that is active for a run of tokens fills a cell of it. Each
rectangle over cells is one pair of products. Owns that choice. Does not know tensors or modules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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


# Measured on one AVX2 core in float32: 10 us a pair of small products, 40 G multiply-adds/s, 4 G numbers/s out of
# memory. Cores with matrix units in bfloat16 do all three two to three times as fast, so the ratios hold.
CPU_COSTS = Costs(call=4e5, read=10)
# From data sheets, not measured: three launches of 5 us, 100 T multiply-adds/s, 1 T numbers/s.
GPU_COSTS = Costs(call=1.5e9, read=100)


def cover(cells: Iterable[Cell], features: int, costs: Costs) -> tuple[Rectangle, ...]:
    """Rectangles that hold every cell exactly once, neighbours merged while that makes the sum cheaper.

    features: numbers of A and B in one pool row. Cells come ordered by token, so that batches sorted
    by adapter give neighbours that lie close in rows too; one pass then finds the diagonal.
    """
    done: list[Rectangle] = []
    for cell in cells:
        alone = Rectangle(cell.begin, cell.end, cell.first, cell.last, (cell,))
        merged = _merge(done[-1], alone) if done else alone
        if done and _cost(merged, features, costs) <= _cost(done[-1], features, costs) + _cost(alone, features, costs):
            done[-1] = merged
        else:
            done.append(alone)
    return tuple(done)


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
