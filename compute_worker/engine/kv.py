"""Keys and values of all requests: per layer one tensor of slots, handed out in blocks.

Owns the memory, writing to slots and gathering blocks. Does not know which request owns a block,
nor what attention does with the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compute_worker.engine.memory import populate, reserve

# Tokens of a block. Small, since a request wastes half a block on average; large enough that a block of one head
# of 64 in bfloat16 (2 KB) is copied at full memory speed.
BLOCK_TOKENS = 16
# Blocks whose memory is had at once, in one tensor: 400 KB with 3 heads of 64 in bfloat16, 8 MB with 32 of 128, which
# the system clears in 2 ms or less.
_PIECE_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one token takes in one layer: [heads, key_size] and [heads, value_size]."""

    heads: int
    key_size: int
    value_size: int

    @property
    def numel(self) -> int:
        """Numbers of one token."""
        return self.heads * (self.key_size + self.value_size)


def block_bytes(shapes: Mapping[int, LayerShape], dtype: torch.dtype, block_tokens: int) -> int:
    """Bytes of one block over all layers."""
    return block_tokens * dtype.itemsize * sum(shape.numel for shape in shapes.values())


class KvCache:
    """KV slots of every layer, by the layer's index in the model, in blocks of `block_tokens`.

    The last of `blocks` may be nobody's: see `spare`.
    """

    def __init__(
        self,
        shapes: Mapping[int, LayerShape],
        blocks: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        block_tokens: int = BLOCK_TOKENS,
    ) -> None:
        self.block_tokens = block_tokens
        self.device = device
        slots = blocks * block_tokens
        self._blocks = blocks
        # Zeros, not empty: what a mask hides is still multiplied, and must be finite.
        self._keys = {
            layer: reserve((slots, shape.heads, shape.key_size), dtype, device) for layer, shape in shapes.items()
        }
        self._values = {
            layer: reserve((slots, shape.heads, shape.value_size), dtype, device) for layer, shape in shapes.items()
        }
        self._extended = 0
        self._pieces: list[Tensor] = []

    def memory(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer where they lie: [slots, heads, size] of each."""
        return self._keys[layer], self._values[layer]

    def pages(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer as blocks: [blocks, block_tokens, heads, size] of each."""
        keys, values = self.memory(layer)
        shape = self._blocks, self.block_tokens
        return keys.view(*shape, *keys.shape[1:]), values.view(*shape, *values.shape[1:])

    @property
    def spare(self) -> int:
        """The last block: where a batch that is filled up writes what nobody reads."""
        return self._blocks - 1

    def extend(self, blocks: int) -> bool:
        """Have a piece more of the memory of the first `blocks` blocks; whether some is still missing."""
        if self.device.type != "cpu":  # is there from the start
            return False
        blocks = min(blocks, self._blocks)
        if not self._pieces and self._extended < blocks:
            begin, self._extended = self._extended, min(blocks, self._extended + _PIECE_BLOCKS)
            slots = slice(begin * self.block_tokens, self._extended * self.block_tokens)
            self._pieces = [tensor[slots] for tensor in (*self._keys.values(), *self._values.values())]
        if self._pieces:
            populate(self._pieces.pop())
        return bool(self._pieces) or self._extended < blocks

    def scrub(self, slots: Tensor) -> None:
        """Zero slots in every layer: their last owner may have left infinities behind."""
        for tensor in (*self._keys.values(), *self._values.values()):
            tensor.index_fill_(0, slots, 0)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys [T, heads, key_size] and values [T, heads, value_size] at slots [T]."""
        for memory, new in ((self._keys[layer], keys), (self._values[layer], values)):
            memory.index_copy_(0, slots, new.to(memory.dtype))

    def gather(self, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of blocks.

        table: block ids [N, B]. Returns [N, heads, B * block_tokens, size] of each.
        """
        return self._take(self._keys[layer], table), self._take(self._values[layer], table)

    def _take(self, tensor: Tensor, table: Tensor) -> Tensor:
        _, heads, size = tensor.shape
        # Whole blocks: one copy of a block is `block_tokens` times fewer than of its slots.
        taken = tensor.view(self._blocks, -1).index_select(0, table.view(-1))
        return taken.view(table.shape[0], -1, heads, size).transpose(1, 2)
