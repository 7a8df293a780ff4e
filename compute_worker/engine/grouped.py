"""What the adapters of a step add to each product of the fast executor, as tables for the kernels.

Owns making them, once for as long as the batch uses the same adapters. Does not know tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compute_worker.engine.kernels import Cells, GroupedCell
from compute_worker.engine.layout import Layout, Run
from compute_worker.engine.linear import Term
from compute_worker.engine.pool import RankPool, Resident, cells, extras, lying_at
from compute_worker.engine.recognise import Product

# By layer of the pool, the rank of the adapter at each first row.
_Ranks = tuple[Mapping[int, int], ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What is added to one product. terms: with the segment that each changes, behind the cells."""

    cells: Cells
    terms: Sequence[tuple[int, Term]] = ()

    def __bool__(self) -> bool:
        return bool(self.cells.items or self.terms)


NOTHING = Added(Cells(()))


class Grouping:
    """What the pool's adapters add to `products`; the last of them, the head, sees the kept tokens alone."""

    def __init__(self, pool: RankPool, products: Sequence[Product]) -> None:
        self._pool = pool
        self._products = products
        self._nothing = [NOTHING] * len(products)
        self._made: tuple[object, object, list[Added]] = (None, None, [])

    def of(self, layout: Layout) -> Sequence[Added]:
        """One for each product. Raises Internal where an adapter of the step does not lie in the pool."""
        residents = self._pool.residents
        runs = tuple(run for run in layout.runs if run.adapters)
        if not runs:
            return self._nothing
        key = (runs, layout.kept_runs)
        if self._made[0] != key or self._made[1] is not residents:
            self._made = (key, residents, list(self._make(runs, layout.kept_runs, residents)))
        return self._made[2]

    def _make(self, runs: Sequence[Run], kept: Sequence[Run], residents: Mapping[int, Resident]) -> Iterator[Added]:
        starts = sorted({adapter.start for run in runs for adapter in run.adapters})
        active = {start: lying_at(start, residents) for start in starts}
        made: dict[object, Cells] = {}
        for product in self._products:
            head = product is self._products[-1]
            over = kept if head else runs
            ranks = tuple({start: active[start].ranks[layer] for start in starts} for layer in product.layers)
            key = (head, *(tuple(of_layer.values()) for of_layer in ranks))
            if key not in made:
                made[key] = Cells(tuple(_cells(over, ranks)))
            terms = [
                (segment, term)
                for segment, layer in enumerate(product.layers)
                if any(layer in resident.extras for resident in active.values())
                for term in extras(layer, over, active)
            ]
            yield Added(made[key], terms)


def _cells(over: Sequence[Run], ranks: _Ranks) -> Iterator[GroupedCell]:
    for segment, of_layer in enumerate(ranks):
        for cell in cells(over, of_layer):
            yield GroupedCell(segment, cell.begin, cell.end, cell.first, cell.last - cell.first, cell.weight)
