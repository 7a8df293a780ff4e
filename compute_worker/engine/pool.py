"""The rank pool: rank rows of all resident adapters, side by side, in every linear layer.

y = W x + ((x A^T) * M) B, where M [tokens, rows] holds the weight of the adapter that owns a row
where a token's request has it active (its scaling is in B). Owns the rows, who lies where, and what
each layer adds in a step. Does not know names or eviction: callers say which rows to overwrite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor, nn

from compute_worker.engine.changes import Change
from compute_worker.engine.cover import CPU_COSTS, GPU_COSTS, Cell, Rectangle, cover
from compute_worker.engine.cuda.copies import Copies
from compute_worker.engine.experts import ExpertLora
from compute_worker.engine.host import HostModule, LoadedAdapter, Magnitude
from compute_worker.engine.layout import Layout, Run, lay_out
from compute_worker.engine.linear import AdaptedLinear, Term
from compute_worker.engine.memory import populate
from lorry.errors import Internal


@dataclass(frozen=True, slots=True)
class _Product:
    """((x A^T) * M) B over one rectangle of M."""

    tokens: slice
    rows: slice
    weight: float
    # Where M is zero, [tokens, rows]; None where it is zero nowhere.
    off: Tensor | None
    # M in float32 where its weights differ, [tokens, rows]; else None and `weight` is all of them.
    weights: Tensor | None

    def apply(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> None:
        """See Term."""
        z = nn.functional.linear(x[self.tokens], a[self.rows].to(x.dtype))
        if self.off is not None:
            # Filled, not multiplied: another adapter's product may be infinite, and 0 * inf is not 0.
            z.masked_fill_(self.off, 0)
        if self.weights is not None:
            z.mul_(self.weights)
        y[self.tokens].addmm_(z, b[self.rows].to(y.dtype), alpha=self.weight)


@dataclass(frozen=True, slots=True)
class _Bias:
    """+ weight * scaling * lora_bias."""

    tokens: slice
    weight: float
    bias: Tensor

    def apply(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> None:  # noqa: ARG002 - one form for all terms
        """See Term."""
        y[self.tokens].add_(self.bias, alpha=self.weight)


@dataclass(frozen=True, slots=True)
class _Gain:
    """DoRA's magnitude, behind the products."""

    tokens: slice
    magnitude: Magnitude

    def apply(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> None:  # noqa: ARG002 - one form for all terms
        """See Term."""
        y[self.tokens].mul_(self.magnitude.gain)
        if self.magnitude.shift is not None:
            y[self.tokens].add_(self.magnitude.shift)


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """An adapter in the pool. ranks: its rank in each layer, in the pool's order; 0 where it has none.

    extras: by layer, what does not fit the pool's form (A and B left out). changes, vocab, experts: as LoadedAdapter's.
    """

    start: int
    end: int
    ranks: tuple[int, ...]
    extras: Mapping[int, tuple[Tensor | None, Magnitude | None]]
    changes: Mapping[str, tuple[Change, ...]]
    vocab: int | None
    experts: Mapping[str, ExpertLora] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether products of its rows are all that it is."""
        return not (self.extras or self.changes or self.experts)


class RankPool:
    """Pool rows of every layer in `layers`; `head`, where given, sees the kept tokens alone."""

    def __init__(
        self, layers: Mapping[str, AdaptedLinear], rows: int, head: AdaptedLinear | None, dtype: torch.dtype
    ) -> None:
        self._names = tuple(layers)
        self._layers = tuple(layers.values())
        self._head = head
        self._rows = rows
        self._residents: dict[int, Resident] = {}
        self._behind = slice(0, 0)  # the last one that came: where the next most often goes
        self._lock = Lock()
        self._device = self._layers[0].weight.device
        self._costs = CPU_COSTS if self._device.type == "cpu" else GPU_COSTS
        self._planned: tuple[object, object] = (((), ()), None)
        self._copies = Copies(self._device)
        for layer in self._layers:
            layer.reserve(rows, dtype)

    def install(self, adapter: LoadedAdapter, start: int) -> None:
        """Write into rows [start, start + rank); whoever lay there is gone. Any thread."""
        end = start + adapter.rank
        if start < 0 or end > self._rows:
            raise Internal(f"rows [{start}, {end}) are outside of a pool of {self._rows} rows")
        with self._lock:
            self._residents = {
                key: resident
                for key, resident in self._residents.items()
                if resident.end <= start or resident.start >= end
            }
        with self._copies.beside():
            resident = self._copy(adapter, start, end)
        with self._lock:
            self._residents = {**self._residents, start: resident}
        self._behind = slice(end, end + adapter.rank)

    def prepare(self) -> None:
        """Get the memory that the next adapter's rows are written to first. Any thread; rows stay as they are."""
        behind, self._behind = self._behind, slice(0, 0)
        if self._device.type == "cpu" and behind.start < behind.stop:
            for layer in self._layers:
                populate(layer.a[behind])
                populate(layer.b[behind])

    def _copy(self, adapter: LoadedAdapter, start: int, end: int) -> Resident:
        extras = {}
        for index, (name, layer) in enumerate(zip(self._names, self._layers, strict=True)):
            module = adapter.modules.get(name)
            if module is None:
                continue
            layer.a[start : start + module.rank].copy_(module.a, non_blocking=True)
            layer.b[start : start + module.rank].copy_(module.b, non_blocking=True)
            if module.bias is not None or module.magnitude is not None:
                extras[index] = self._extra(module)
        ranks = tuple(adapter.modules[name].rank if name in adapter.modules else 0 for name in self._names)
        changes = {name: tuple(change.on(self._device) for change in each) for name, each in adapter.changes.items()}
        experts = {name: each.on(self._device) for name, each in adapter.experts.items()}
        return Resident(start, end, ranks, extras, changes, adapter.vocab, experts)

    def _extra(self, module: HostModule) -> tuple[Tensor | None, Magnitude | None]:
        bias, magnitude = module.bias, module.magnitude
        if magnitude is not None:
            shift = magnitude.shift
            magnitude = Magnitude(magnitude.gain.to(self._device), None if shift is None else shift.to(self._device))
        return None if bias is None else bias.to(self._device), magnitude

    @property
    def residents(self) -> Mapping[int, Resident]:
        """Who lies in the pool, by first row. A value: whatever is installed later makes another one."""
        with self._lock:
            return self._residents

    @property
    def head(self) -> tuple[str | None, int]:
        """The layer that sees the kept tokens alone, None where there is none, and the columns of its output."""
        pairs = zip(self._names, self._layers, strict=True)
        return next(((name, layer.out_features) for name, layer in pairs if layer is self._head), (None, 0))

    @property
    def names(self) -> Sequence[str]:
        """The layers, in the order of `Resident.ranks`."""
        return self._names

    def clear(self) -> None:
        """Nobody lies here any more."""
        with self._lock:
            self._residents = {}

    def tell(self, terms: Iterable[Sequence[Term]]) -> None:
        """Let each layer add its terms until the next plan, and let nothing else be changed."""
        self.plan(lay_out([], 1))
        for layer, each in zip(self._layers, terms, strict=True):
            layer.tell(each)
        self._planned = (None, None)

    def plan(self, layout: Layout) -> None:
        """Tell every layer what to add in the coming step. Free where the step is like the last one."""
        residents = self.residents
        runs = tuple(run for run in layout.runs if run.adapters)
        kept = tuple(run for run in layout.kept_runs if run.adapters)
        if self._planned[0] == (runs, kept) and (not runs or self._planned[1] is residents):
            return
        # All or nothing: a plan that fails half-way leaves the one before it in every layer.
        planned = list(self._terms(runs, kept, residents))
        for layer, terms in zip(self._layers, planned, strict=True):
            layer.tell(terms)
        self._planned = ((runs, kept), residents)

    def _terms(
        self, runs: tuple[Run, ...], kept: tuple[Run, ...], residents: Mapping[int, Resident]
    ) -> Iterator[Sequence[Term]]:
        starts = sorted({adapter.start for run in runs for adapter in run.adapters})
        active = [lying_at(start, residents) for start in starts]
        if not active:
            yield from [()] * len(self._layers)
            return
        beyond = frozenset[int]().union(*(resident.extras for resident in active))
        # Layers of one width that the same adapters reach with the same ranks share their products.
        products: dict[object, tuple[Term, ...]] = {}
        columns = zip(*(resident.ranks for resident in active), strict=True)
        for index, (layer, ranks) in enumerate(zip(self._layers, columns, strict=True)):
            over = kept if layer is self._head else runs
            width = layer.in_features + layer.out_features
            key = (layer is self._head, width, ranks)
            if key not in products:
                filled = cells(over, dict(zip(starts, ranks, strict=True)))
                rectangles = cover(filled, width, self._costs)
                products[key] = tuple(_product(rectangle, self._device) for rectangle in rectangles)
            yield products[key] + tuple(extras(index, over, residents)) if index in beyond else products[key]


def lying_at(start: int, residents: Mapping[int, Resident]) -> Resident:
    """The adapter whose first row this is. Raises Internal where there is none."""
    if start not in residents:
        raise Internal(f"no adapter lies at pool row {start}")
    return residents[start]


def cells(runs: Sequence[Run], ranks: Mapping[int, int]) -> Iterator[Cell]:
    """The cells of M in a layer. ranks: of the adapter at each first row, 0 where it does not reach the layer."""
    for run in runs:
        for adapter in run.adapters:
            # Weight 0 is left out rather than multiplied: nothing of that adapter may show.
            if ranks[adapter.start] and adapter.weight:
                yield Cell(run.begin, run.end, adapter.start, adapter.start + ranks[adapter.start], adapter.weight)


def _product(rectangle: Rectangle, device: torch.device) -> _Product:
    tokens, rows = slice(rectangle.begin, rectangle.end), slice(rectangle.first, rectangle.last)
    if len(rectangle.cells) == 1:
        return _Product(tokens, rows, rectangle.cells[0].weight, None, None)
    m = torch.zeros(rectangle.end - rectangle.begin, rectangle.last - rectangle.first)
    for cell in rectangle.cells:
        begin, first = rectangle.begin, rectangle.first
        m[cell.begin - begin : cell.end - begin, cell.first - first : cell.last - first] = cell.weight
    off = m == 0
    weights = {cell.weight for cell in rectangle.cells}
    alike = len(weights) == 1
    return _Product(
        tokens,
        rows,
        weights.pop() if alike else 1.0,
        off.to(device) if bool(off.any()) else None,
        None if alike else m.to(device),
    )


def extras(index: int, runs: Sequence[Run], residents: Mapping[int, Resident]) -> Iterator[Term]:
    """What goes beyond products in layer `index`: biases and magnitudes of the adapters of `runs`."""
    for run in runs:
        for adapter in run.adapters:
            bias, magnitude = residents[adapter.start].extras.get(index, (None, None))
            if bias is not None and adapter.weight:
                yield _Bias(slice(run.begin, run.end), adapter.weight, bias)
            if magnitude is not None:
                yield _Gain(slice(run.begin, run.end), magnitude)
