"""The fast executor: a step as one list of kernels over the parts of a recognised model.

Owns the order of the kernels and the memory between them, which is reserved once. Neither modules nor
torch's dispatcher stand between two kernels. What adapters change at the two ends is done there in torch; a step
that changes something between them is the general executor's. Does not know requests or why rows were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from compute_worker.engine.additions import Additions
from compute_worker.engine.changes import Change, Use, changed
from compute_worker.engine.changing import Changing
from compute_worker.engine.executor import Executor, Scores, chosen, others
from compute_worker.engine.grouped import Grouping
from compute_worker.engine.kernels import (
    NOWHERE,
    Adapt,
    AddNorm,
    Argmax,
    Attend,
    Kernels,
    Linear,
    Operation,
    Places,
    Program,
    SiluMul,
    Step,
)
from compute_worker.engine.kv import BLOCK_TOKENS
from compute_worker.engine.layout import Layout
from compute_worker.engine.pool import RankPool
from compute_worker.engine.recognise import Parts, Product


@dataclass(frozen=True, slots=True)
class _Room:
    """What lies between the kernels, all [tokens, ...] in float32."""

    stream: Tensor
    normed: Tensor
    qkv: Tensor
    attended: Tensor
    gate_up: Tensor
    gated: Tensor
    out: Tensor


# Products of a layer behind its attention, and the head: what they make of a token is needed where it is kept alone.
_TAIL = 4


@dataclass(frozen=True, slots=True)
class _Programs:
    """body: up to the last layer's attention, of all tokens; tail: behind it, of the kept ones."""

    body: Program
    tail: Program


class FastExecutor:
    """Executor over the parts of a model on the CPU. general: for steps that change more than products and ends."""

    def __init__(self, parts: Parts, kernels: Kernels, pool: RankPool, general: Executor) -> None:
        self.name = f"native-{kernels.name}"
        self.nbytes = parts.nbytes
        self.draft_tokens = kernels.abreast
        self._parts = parts
        self._kernels = kernels
        self._general = general
        self._changing = Changing(pool)
        self._head = pool.head[0]
        self._grouping = Grouping(pool, [*parts.products(), parts.head], _TAIL)
        self._room, self._programs = self._prepare(1)

    @torch.inference_mode()
    def run(self, layout: Layout, needed: Sequence[int]) -> Scores:
        """See Executor."""
        changes = self._changing.of(layout)
        if not changes.uses.keys() <= {self._parts.entry, self._head}:
            return self._general.run(layout, needed)
        additions = self._grouping.of(layout)
        kept = self._forward(layout, additions, changes.uses.get(self._parts.entry, ()))
        at_head = changes.uses.get(self._head or "", ())
        if additions.products[-1] or at_head:
            logits = self._all_logits(kept, additions, at_head)
            return chosen(logits, layout, needed, changes.widths)
        return Scores(self._logits(kept[list(needed)], None), self._best(kept[others(layout, needed)]))

    def _forward(self, layout: Layout, additions: Additions, at_entry: Sequence[Use[Change]]) -> Tensor:
        """The normed output of the last layer for the kept tokens, [kept, size]."""
        tokens = len(layout.ids)
        if tokens > len(self._room.stream):
            # Twice as much, so that prompts of all lengths do not make it grow each time.
            self._room, self._programs = self._prepare(max(tokens, 2 * len(self._room.stream)))
        room, parts = self._room, self._parts
        ids, stream = torch.tensor(layout.ids), room.stream[:tokens]
        # Ids of a vocabulary of an adapter's own may not be the base's: they are looked up again.
        known = ids.clamp(max=parts.table.shape[0] - 1) if at_entry else ids
        stream[:] = parts.table.lookup(known)
        if at_entry:
            changed(ids, stream, at_entry)
        self._programs.body.run(Step(tokens, self._places(layout, room.stream), additions))
        kept = len(layout.kept)
        if kept < tokens:
            for each in (room.stream, room.attended):
                each[:kept] = each[layout.kept]
        self._programs.tail.run(Step(kept, NOWHERE, additions))
        return room.normed[:kept]

    def _all_logits(self, kept: Tensor, additions: Additions, at_head: Sequence[Use[Change]]) -> Tensor:
        """Of every kept token, with all that adapters do to the head; [kept, the widest vocabulary]."""
        replaced = sum(use.tokens.stop - use.tokens.start for use in at_head if use.change.width)
        if replaced == len(kept):  # nobody asks for the base's
            logits = torch.empty(len(kept), self._parts.head.weight.shape[0])
        else:
            logits = self._logits(kept, additions if additions.products[-1] else None)
        return changed(kept, logits, at_head) if at_head else logits

    def _logits(self, x: Tensor, additions: Additions | None) -> Tensor:
        """Of the rows of x, [rows, vocabulary]; additions: also what adapters add to the head."""
        head = self._parts.head
        logits = torch.empty(len(x), head.weight.shape[0])
        if not len(x):
            return logits
        operations: list[Operation] = [Linear(x, head.weight, head.bias, logits)]
        if additions:
            operations.append(Adapt(x, logits, head.segments, len(additions.products) - 1))
        self._kernels.program(operations).run(Step(len(x), NOWHERE, additions or Additions()))
        return logits

    def _best(self, x: Tensor) -> list[int]:
        """The most probable token behind each row of x."""
        if not len(x):
            return []
        best = torch.empty(len(x), dtype=torch.int64)
        head = self._parts.head
        self._kernels.program([Argmax(x, head.weight, head.bias, best)]).run(Step(len(x), NOWHERE, Additions()))
        tokens: list[int] = best.tolist()
        return tokens

    def _places(self, layout: Layout, stream: Tensor) -> Places:
        cos, sin = self._parts.rotary(stream, torch.tensor([layout.positions]))
        rows, tables, begin, first_block = [], [], 0, 0
        for blocks, tokens in layout.tables():
            rows.append((begin, begin + tokens, layout.positions[begin], first_block))
            tables.append(blocks)
            begin += tokens
            first_block += len(blocks)
        table = torch.tensor(list(chain.from_iterable(tables)))
        return Places(torch.tensor(rows), table, cos[0].contiguous(), sin[0].contiguous())

    def _prepare(self, tokens: int) -> tuple[_Room, _Programs]:
        layer = self._parts.layers[0]
        size, width = layer.out.weight.shape
        gate_up = layer.gate_up.weight.shape[0]
        widths = (size, size, layer.qkv.weight.shape[0], width, gate_up, gate_up // 2, size)
        room = _Room(*(torch.empty(tokens, each) for each in widths))
        operations = list(_operations(self._parts, room))
        behind = 1 + max(i for i, each in enumerate(operations) if isinstance(each, Attend))
        programs = _Programs(self._kernels.program(operations[:behind]), self._kernels.program(operations[behind:]))
        return room, programs


def _operations(parts: Parts, room: _Room) -> Iterator[Operation]:
    """From the embedded tokens in `stream` to the last layer's normed output."""
    first = parts.layers[0].attention_norm
    yield AddNorm(room.stream, None, first.weight, first.eps, room.normed)
    following = [*(layer.attention_norm for layer in parts.layers[1:]), parts.norm]
    for index, (layer, norm) in enumerate(zip(parts.layers, following, strict=True)):
        number = 4 * index
        yield from _product(layer.qkv, number, room.normed, room.qkv)
        yield Attend(room.qkv, layer.heads, BLOCK_TOKENS, room.attended)
        yield from _product(layer.out, number + 1, room.attended, room.out)
        yield AddNorm(room.stream, room.out, layer.mlp_norm.weight, layer.mlp_norm.eps, room.normed)
        yield from _product(layer.gate_up, number + 2, room.normed, room.gate_up)
        yield SiluMul(room.gate_up, room.gated)
        yield from _product(layer.down, number + 3, room.gated, room.out)
        yield AddNorm(room.stream, room.out, norm.weight, norm.eps, room.normed)


def _product(product: Product, number: int, x: Tensor, out: Tensor) -> Iterator[Operation]:
    yield Linear(x, product.weight, product.bias, out)
    yield Adapt(x, out, product.segments, number)
