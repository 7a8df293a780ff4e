"""Reading an adapter tensor by tensor: checked against the base, ready to be copied into the pool.

Owns which tensors belong together, and that everything that can fail does so here, before a pool row is touched.
Does not know how a kind is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from compute_worker.engine.changes import Change, OtherLinear, OtherTable
from compute_worker.engine.experts import ExpertLora, expert_lora
from compute_worker.engine.host import HostModule, LoadedAdapter, charged_bytes
from compute_worker.engine.lora import biased, lora
from compute_worker.engine.reach import Reach
from compute_worker.engine.replaced import (
    Given,
    check_copy,
    embedding_lora,
    other,
    token_columns,
    tokens,
    unreachable,
)
from compute_worker.engine.rows import HostRows, Spare, room_for
from compute_worker.engine.tensors import DTYPES
from lorry.errors import IncompatibleAdapter, UnsupportedAdapter
from lorry.format.base import BaseFacts
from lorry.format.compatibility import judge, refuse
from lorry.format.facts import AdaptedExperts, AdaptedModule, AdapterFacts, SavedModule, TrainedBias, TrainedTokens
from lorry.format.header import TensorEntry, header_length, parse_header
from lorry.format.names import Part, experts_names, lora_names, saved_name, tensor_name

# What a group of tensors comes to: changes of modules, by name.
_Made = Iterator[tuple[str, HostModule | Change | ExpertLora]]
# One change of one module, out of its tensors.
_Read = Callable[[Mapping[str, Tensor]], HostModule | Change | ExpertLora]


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Tensors that are read together, as soon as the last of them came."""

    names: tuple[str, ...]
    make: Callable[[Mapping[str, Tensor]], _Made]

    @classmethod
    def of(cls, module: str, names: Iterable[str], read: _Read) -> _Group:
        """Tensors that come to one change of one module."""
        return cls(tuple(names), lambda tensors: iter([(module, read(tensors))]))


class Reading:
    """An AdapterReading of this engine: a module is cast and scaled as soon as its last tensor came.

    Raises UnsupportedAdapter, IncompatibleAdapter.
    """

    def __init__(self, facts: AdapterFacts, base: BaseFacts, reach: Reach, spare: Spare) -> None:
        refuse(judge(facts, base, claimed=None))
        _check_kinds(facts, reach)
        self._facts = facts
        self._row_bytes = reach.row_bytes
        self._linears = reach.linears
        self._vocab = _vocabulary(facts, reach)
        self._waiting = list(_groups(facts, reach, _rows(facts, reach, spare)))
        self._owners = {name: group for group in self._waiting for name in group.names}
        self._tensors: dict[str, Tensor] = {}
        self._modules: dict[str, HostModule] = {}
        self._changes: dict[str, list[Change]] = {}
        self._experts: dict[str, ExpertLora] = {}

    def take(self, tensor: TensorEntry, data: memoryview) -> None:
        """See AdapterReading."""
        group = self._owners.get(tensor.name)
        if group is not None and data:
            self._tensors[tensor.name] = torch.frombuffer(data, dtype=DTYPES[tensor.dtype]).view(tensor.shape)
            if all(name in self._tensors for name in group.names):
                self._add(group)

    def finish(self) -> LoadedAdapter:
        """See AdapterReading."""
        for group in tuple(self._waiting):
            self._add(group)  # says which tensor is missing
        changes = {name: tuple(sorted(each, key=_whole_first)) for name, each in self._changes.items()}
        return LoadedAdapter(
            self._modules,
            changes,
            lone=bool(self._facts.saved or self._facts.tokens or self._facts.biases),
            rows=max(self._facts.rank, -(-charged_bytes(changes, self._experts) // self._row_bytes)),
            vocab=self._vocab,
            experts=self._experts,
        )

    def _add(self, group: _Group) -> None:
        for name, made in group.make(self._tensors):
            if isinstance(made, HostModule):
                self._modules[name] = made.pinned(self._linears[name].a.device)
            elif isinstance(made, ExpertLora):
                self._experts[name] = made
            else:
                self._changes.setdefault(name, []).append(made)
        self._waiting.remove(group)
        for name in group.names:
            del self._tensors[name]


def read_file(weights: Path, reading: Reading) -> LoadedAdapter:
    """All tensors of a file. Raises InvalidAdapter and what `reading` raises, OSError."""
    data = weights.read_bytes()
    for tensor in parse_header(data[: header_length(data)], len(data)).tensors:
        reading.take(tensor, memoryview(bytearray(data[tensor.start : tensor.end])))
    return reading.finish()


def _rows(facts: AdapterFacts, reach: Reach, spare: Spare) -> HostRows:
    """Room for A and B of all linears."""
    dtype = next(iter(reach.linears.values())).a.dtype
    linears = [module for module in facts.modules if not module.embedding]
    shapes = [(m.rank, features) for m in linears for features in (m.in_features, m.out_features)]
    return HostRows(spare.take(room_for(shapes, dtype)), dtype)


def _groups(facts: AdapterFacts, reach: Reach, rows: HostRows) -> Iterator[_Group]:
    biases = {bias.name for bias in facts.biases}
    for module in facts.modules:
        yield _of_embedding(module, reach) if module.embedding else _of_linear(module, reach, biases, rows)
    adapted = {module.name for module in facts.modules}
    for bias in facts.biases:
        if bias.name not in adapted:
            yield _of_bias(bias, reach)
    for saved in facts.saved:
        yield _of_saved(saved, reach)
    for each in facts.tokens:
        yield _of_tokens(each, facts, reach)
    for name in facts.copies:
        yield _of_copy(name, reach)
    for name, experts in groupby(facts.experts, lambda each: each.name):
        yield _of_experts(name, tuple(experts), reach)


def _of_linear(module: AdaptedModule, reach: Reach, biases: set[str], rows: HostRows) -> _Group:
    if module.name not in reach.linears:
        raise unreachable(module.name)
    trained = tensor_name(module.name, Part.BASE_BIAS) if module.name in biases else None
    names = (*lora_names(module), *([trained] if trained else ()))
    return _Group.of(module.name, names, partial(lora, module, reach.linears[module.name], trained, rows))


def _of_embedding(module: AdaptedModule, reach: Reach) -> _Group:
    return _Group.of(module.name, lora_names(module), partial(embedding_lora, module, reach))


def _of_bias(bias: TrainedBias, reach: Reach) -> _Group:
    name = tensor_name(bias.name, Part.BIAS)
    if bias.name in reach.linears:
        target = reach.linears[bias.name]
        read: _Read = partial(biased, bias.name, target)
    else:
        read = other(bias.name, {"bias": Given(name, (bias.features,))}, reach)
    return _Group.of(bias.name, [name], read)


def _of_saved(saved: SavedModule, reach: Reach) -> _Group:
    given = {parameter: Given(saved_name(saved, parameter), shape) for parameter, shape in saved.parameters}
    names = [each.tensor for each in given.values()]
    return _Group.of(saved.name, names, other(saved.name, given, reach))


def _of_tokens(trained: TrainedTokens, facts: AdapterFacts, reach: Reach) -> _Group:
    name = tensor_name(trained.name, Part.TOKENS)
    own_head = any(each.name == reach.head for each in facts.tokens)

    def make(tensors: Mapping[str, Tensor]) -> _Made:
        yield trained.name, tokens(trained, tensors, reach)
        if reach.tied and reach.head and trained.name == reach.entry and not own_head:
            yield reach.head, token_columns(trained, tensors[name], reach.linears[reach.head], name)

    return _Group((name,), make)


def _of_copy(name: str, reach: Reach) -> _Group:
    def make(tensors: Mapping[str, Tensor]) -> _Made:
        check_copy(name, tensors, reach)
        yield from ()

    return _Group((tensor_name(name, Part.BASE_WEIGHT),), make)


def _of_experts(name: str, experts: Sequence[AdaptedExperts], reach: Reach) -> _Group:
    if name not in reach.experts:
        raise UnsupportedAdapter(
            f"{name}: expected the experts of a base that stacks their weights in gate_up_proj and down_proj and does "
            "nothing to them but gate and sum; this base has no such module there"
        )
    names = [tensor for each in experts for tensor in experts_names(each)]
    return _Group.of(name, names, partial(expert_lora, reach.experts[name], experts))


def _whole_first(change: Change) -> bool:
    """Trained tokens beside a replaced module are rows of the replacement: they come behind it."""
    return not isinstance(change, OtherLinear | OtherTable)


def _check_kinds(facts: AdapterFacts, reach: Reach) -> None:
    """Raise UnsupportedAdapter where two kinds meet in one module, which PEFT does not define."""
    adapted = {module.name for module in facts.modules}
    saved = {module.name for module in facts.saved}
    beside = {module.name for module in facts.saved if module.under_tokens}
    trained = {each.name for each in facts.tokens}
    if reach.tied and reach.head and reach.entry in trained:
        trained.add(reach.head)
    twice = (adapted & saved) | (adapted & trained) | (saved & trained) - beside
    if twice:
        raise UnsupportedAdapter(
            f"{min(twice)}: expected LoRA, a replacement or trained tokens, got two of them for one module"
        )


def _vocabulary(facts: AdapterFacts, reach: Reach) -> int | None:
    """Tokens of a vocabulary of the adapter's own, None for the base's. Raises IncompatibleAdapter."""
    if reach.head is None or reach.entry is None:
        return None
    base = {
        reach.entry: reach.embeddings[reach.entry].shape[0],
        reach.head: reach.linears[reach.head].out_features,
    }
    own = {
        module.name: shape[0]
        for module in facts.saved
        for parameter, shape in module.parameters
        if parameter == "weight" and module.name in base
    }
    rows = {**base, **own}
    if rows == base:
        return None
    if len(set(rows.values())) != 1 or own.keys() != base.keys():
        told = ", ".join(f"{name} of {count} rows" for name, count in sorted(rows.items()))
        raise IncompatibleAdapter(f"expected embedding and head to be replaced by ones of as many tokens, got {told}")
    return next(iter(rows.values()))
