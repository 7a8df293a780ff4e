"""What the adapters of a step add to each product of the fast executor, as tables for the kernels.

Owns making them, once for as long as the batch uses the same adapters. Does not know tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from compute_worker.engine.additions import Added, Additions, GroupedCell, Touch
from compute_worker.engine.layout import Layout, Run
from compute_worker.engine.pool import RankPool, Resident, cells, lying_at
from compute_worker.engine.recognise import Product

# By layer of the pool, the rank of the adapter at each first row.
_Ranks = tuple[Mapping[int, int], ...]


class Grouping:
    """What the pool's adapters add to `products`; the last `late` of them see the kept tokens alone."""

    def __init__(self, pool: RankPool, products: Sequence[Product], late: int) -> None:
        self._pool = pool
        self._products = products
        self._early = len(products) - late
        self._nothing = Additions([Added()] * len(products))
        self._made: tuple[object, object, Additions] = (None, None, self._nothing)

    def of(self, layout: Layout) -> Additions:
        """All of a step's. Raises Internal where an adapter of the step does not lie in the pool."""
        residents = self._pool.residents
        runs = tuple(run for run in layout.runs if run.adapters)
        if not runs:
            return self._nothing
        key = (runs, layout.kept_runs)
        if self._made[0] != key or self._made[1] is not residents:
            self._made = (key, residents, Additions(list(self._make(runs, layout.kept_runs, residents))))
        return self._made[2]

    def _make(self, runs: Sequence[Run], kept: Sequence[Run], residents: Mapping[int, Resident]) -> Iterator[Added]:
        starts = sorted({adapter.start for run in runs for adapter in run.adapters})
        active = {start: lying_at(start, residents) for start in starts}
        made: dict[object, Added] = {}
        touched = frozenset[int]().union(*(resident.extras for resident in active.values()))
        for index, product in enumerate(self._products):
            late = index >= self._early
            over = kept if late else runs
            ranks = tuple({start: active[start].ranks[layer] for start in starts} for layer in product.layers)
            key = (late, *(tuple(of_layer.values()) for of_layer in ranks))
            if key not in made:
                made[key] = Added(tuple(_cells(over, ranks)))
            if touched.isdisjoint(product.layers):
                yield made[key]
            else:
                yield Added(made[key].cells, tuple(_touches(over, product, active)))


def _cells(over: Sequence[Run], ranks: _Ranks) -> Iterator[GroupedCell]:
    for segment, of_layer in enumerate(ranks):
        for cell in cells(over, of_layer):
            yield GroupedCell(segment, cell.begin, cell.end, cell.first, cell.last - cell.first, cell.weight)


def _touches(over: Sequence[Run], product: Product, active: Mapping[int, Resident]) -> Iterator[Touch]:
    """Biases and magnitudes, which do not fit the pool's form."""
    for segment, layer in enumerate(product.layers):
        for run in over:
            for adapter in run.adapters:
                bias, magnitude = active[adapter.start].extras.get(layer, (None, None))
                if bias is not None and adapter.weight:
                    yield Touch(segment, run.begin, run.end, None, bias, adapter.weight)
                if magnitude is not None:
                    yield Touch(segment, run.begin, run.end, magnitude.gain, magnitude.shift)
