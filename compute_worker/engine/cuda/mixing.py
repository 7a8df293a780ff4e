"""What plain adapters add in a decode step, over gathered pool rows: one form for every step of a size.

y += ((x A[rows]^T) * m) B[rows], with `rows` and `m` in memory that is filled before each step. Owns that form,
and which adapters it can hold. Does not know how a step is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compute_worker.engine.cover import Cell
from compute_worker.engine.layout import Run
from compute_worker.engine.pool import Resident, lying_at


@dataclass(frozen=True, slots=True)
class Mix:
    """The adapters of a step, side by side in as many columns as they have pool rows.

    rows: the pool row of each column. cells: what uses them, `first` and `last` in columns. ranks: by the first column
    of each adapter, its rank in each layer.
    """

    rows: tuple[int, ...]
    cells: tuple[Cell, ...]
    ranks: tuple[tuple[int, tuple[int, ...]], ...]

    def weights(self, tokens: int, columns: int) -> NDArray[np.float32]:
        """M as [tokens, columns], zero where nothing is used."""
        m = np.zeros((tokens, columns), np.float32)
        for cell in self.cells:
            m[cell.begin : cell.end, cell.first : cell.last] += cell.weight
        return m

    def foreign(self, layers: int, columns: int) -> NDArray[np.bool_]:
        """Where a column is not the adapter's in a layer, [layers, columns]: whatever lay there before still does."""
        foreign = np.ones((layers, columns), np.bool_)
        for first, ranks in self.ranks:
            width = max(ranks)
            foreign[:, first : first + width] = np.arange(width) >= np.array(ranks)[:, None]
        return foreign


def mix_of(runs: Iterable[Run], residents: Mapping[int, Resident]) -> Mix | None:
    """The adapters of `runs`; None where one of them is more than products. Raises Internal for who is not there."""
    runs = list(runs)
    starts = sorted({adapter.start for run in runs for adapter in run.adapters})
    active = [lying_at(start, residents) for start in starts]
    if not all(resident.plain for resident in active):
        return None
    rows: list[int] = []
    columns, ranks = {}, []
    for resident in active:
        columns[resident.start] = len(rows), len(rows) + max(resident.ranks)
        ranks.append((len(rows), resident.ranks))
        rows.extend(range(resident.start, resident.start + max(resident.ranks)))
    cells = [
        Cell(run.begin, run.end, *columns[adapter.start], adapter.weight) for run in runs for adapter in run.adapters
    ]
    return Mix(tuple(rows), tuple(cells), tuple(ranks))


@dataclass(frozen=True, slots=True)
class Mixed:
    """A Term. rows: [columns], int64. m: [tokens, columns], float32. off: what of m does not count in this layer."""

    rows: Tensor
    m: Tensor
    off: Tensor

    def apply(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> None:
        """See Term."""
        z = functional.linear(x, a.index_select(0, self.rows).to(x.dtype))
        # Filled, not multiplied: another adapter's product may be infinite, and 0 * inf is not 0.
        z.masked_fill_(self.off, 0).mul_(self.m)
        y.addmm_(z, b.index_select(0, self.rows).to(y.dtype))


def terms_of(rows: Tensor, m: Tensor, foreign: Tensor) -> list[Mixed]:
    """One for each layer. foreign: [layers, columns], bool; all as they are when this is called."""
    return [Mixed(rows, m, off) for off in (m == 0) | foreign[:, None]]
