"""The fast executor: a step as a list of kernels over the parts of a recognised model.

Owns the order of the kernels and the memory between them, which is reserved once. Neither modules nor
torch's dispatcher stand between two kernels. Does not know requests or why rows were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional

from compute_worker.engine.executor import Scores, others
from compute_worker.engine.grouped import Added, Grouping
from compute_worker.engine.kernels import Kernels, Places
from compute_worker.engine.kv import BLOCK_TOKENS
from compute_worker.engine.layout import Layout
from compute_worker.engine.pool import RankPool
from compute_worker.engine.recognise import Layer, Parts, Product


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

    def of(self, tokens: int) -> _Room:
        """The first tokens of it."""
        return _Room(*(getattr(self, name)[:tokens] for name in self.__slots__))


class FastExecutor:
    """Executor over the parts of a model on the CPU."""

    def __init__(self, parts: Parts, kernels: Kernels, pool: RankPool) -> None:
        self.name = f"native-{kernels.name}"
        self._parts = parts
        self._kernels = kernels
        products = [p for layer in parts.layers for p in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        self._grouping = Grouping(pool, [*products, parts.head])
        self._room = self._reserve(1)

    @torch.inference_mode()
    def run(self, layout: Layout, needed: Sequence[int]) -> Scores:
        """See Executor."""
        added = self._grouping.of(layout)
        kept = self._forward(layout, added)[layout.kept]
        plain = others(layout, needed)
        head = self._parts.head
        if added[-1]:
            logits = torch.empty(len(kept), len(head.weight))
            self._product(head, added[-1], kept, logits)
            return Scores(logits[list(needed)], logits[plain].argmax(-1).tolist() if plain else [])
        logits = torch.empty(len(needed), len(head.weight))
        self._kernels.linear(kept[list(needed)], head.weight, head.bias, logits)
        return Scores(logits, self._kernels.argmax(kept[plain], head.weight, head.bias))

    def _forward(self, layout: Layout, added: Sequence[Added]) -> Tensor:
        """The normed output [tokens, size] of the last layer."""
        tokens = len(layout.ids)
        if tokens > len(self._room.stream):
            self._room = self._reserve(tokens)
        room, kernels, parts = self._room.of(tokens), self._kernels, self._parts
        room.stream.copy_(functional.embedding(torch.tensor(layout.ids), parts.embedding))
        places = self._places(layout, room.stream)
        first = parts.layers[0].attention_norm
        kernels.add_norm(room.stream, None, first.weight, first.eps, room.normed)
        following = [*(layer.attention_norm for layer in parts.layers[1:]), parts.norm]
        for index, (layer, norm) in enumerate(zip(parts.layers, following, strict=True)):
            self._layer(layer, added[4 * index : 4 * index + 4], room, places)
            kernels.add_norm(room.stream, room.out, norm.weight, norm.eps, room.normed)
        return room.normed

    def _layer(self, layer: Layer, added: Sequence[Added], room: _Room, places: Places) -> None:
        """From the normed stream to what the layer's MLP adds to it, in `out`."""
        kernels = self._kernels
        self._product(layer.qkv, added[0], room.normed, room.qkv)
        kernels.attend(room.qkv, places, layer.heads, BLOCK_TOKENS, room.attended)
        self._product(layer.out, added[1], room.attended, room.out)
        kernels.add_norm(room.stream, room.out, layer.mlp_norm.weight, layer.mlp_norm.eps, room.normed)
        self._product(layer.gate_up, added[2], room.normed, room.gate_up)
        kernels.silu_mul(room.gate_up, room.gated)
        self._product(layer.down, added[3], room.gated, room.out)

    def _product(self, product: Product, added: Added, x: Tensor, out: Tensor) -> None:
        self._kernels.linear(x, product.weight, product.bias, out)
        if not added:
            return
        if added.cells.items:
            self._kernels.adapt(x, out, product.segments, added.cells)
        for segment, term in added.terms:
            a, b = product.segments.a[segment], product.segments.b[segment]
            begin = product.columns[segment]
            term.apply(x, out[:, begin : begin + b.shape[1]], a, b)

    def _places(self, layout: Layout, stream: Tensor) -> Places:
        positions = torch.tensor(layout.positions)
        cos, sin = self._parts.rotary(stream, positions[None])
        first_block: list[int] = []
        begin = 0
        for blocks, tokens in layout.tables():
            first_block.extend([begin] * tokens)
            begin += len(blocks)
        tables = torch.tensor(list(chain.from_iterable(blocks for blocks, _ in layout.tables())))
        slots = torch.tensor(layout.slots)
        return Places(positions, slots, torch.tensor(first_block), tables, cos[0].contiguous(), sin[0].contiguous())

    def _reserve(self, tokens: int) -> _Room:
        layer = self._parts.layers[0]
        size, width = layer.out.weight.shape
        gate_up = len(layer.gate_up.weight)
        widths = (size, size, len(layer.qkv.weight), width, gate_up, gate_up // 2, size)
        return _Room(*(torch.empty(tokens, each) for each in widths))
