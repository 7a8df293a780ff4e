"""What a step is computed with: six operations, each with a native and a torch form.

Owns the operations' meaning and the values that they take. Activations are float32 or wider than the
weights; a weight is widened where it is read. Does not know models, layers or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class GroupedCell:
    """Tokens [begin, end) use pool rows [first, first + rank) of segment `segment` times `weight`."""

    segment: int
    begin: int
    end: int
    first: int
    rank: int
    weight: float


@dataclass(frozen=True)
class Cells:
    """What the adapters of a step add to one product. Made once a step, used by every like layer."""

    items: tuple[GroupedCell, ...]

    @cached_property
    def table(self) -> np.ndarray:
        """As the native kernel reads it; `z` is where the cell's rank * tokens numbers begin."""
        rows, z = [], 0
        for cell in self.items:
            rows.append((cell.segment, cell.begin, cell.end, cell.first, cell.rank, z, cell.weight))
            z += cell.rank * (cell.end - cell.begin)
        return np.array(rows, dtype=[*((name, "<i8") for name in ("s", "b", "e", "f", "r", "z")), ("w", "<f8")])

    @cached_property
    def room(self) -> int:
        """Numbers between the two products."""
        return sum(cell.rank * (cell.end - cell.begin) for cell in self.items)


@dataclass(frozen=True)
class Segments:
    """Layers that share their input and lie side by side in one output: pool rows and first column of each.

    a: [rows, in] and b: [rows, out] of each layer; they stay where they are.
    """

    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    columns: tuple[int, ...]
    table: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = [
            (a.data_ptr(), b.data_ptr(), column, b.shape[1])
            for a, b, column in zip(self.a, self.b, self.columns, strict=True)
        ]
        object.__setattr__(self, "table", np.array(rows, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Heads:
    """A layer's attention. keys, values: [slots, kv_heads, size] of each.

    q_norm, k_norm: weights [size] of the RMS norm of each head, float32, or None. window: tokens that are
    seen, None for all. rotary: whether positions turn queries and keys.
    """

    heads: int
    kv_heads: int
    size: int
    scaling: float
    window: int | None
    rotary: bool
    keys: Tensor
    values: Tensor
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    eps: float = 0.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tokens of a step stand, all int64.

    positions, slots: [tokens]. tables: block ids of all rows one after the other; those of token t begin
    at first_block[t]. cos, sin: [tokens, size], float32.
    """

    positions: Tensor
    slots: Tensor
    first_block: Tensor
    tables: Tensor
    cos: Tensor
    sin: Tensor


class Kernels(Protocol):
    """The operations. Everything that is written to is given; activations are contiguous float32."""

    @property
    def name(self) -> str:
        """Which ones they are, for the log and GetCapabilities."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """Out [tokens, n] = x [tokens, k] weight^T + bias. weight: [n, k]; bias: [n], float32."""

    def argmax(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Sequence[int]:
        """For each token, the row of the largest x weight^T + bias; the first of equal ones."""

    def add_norm(self, x: Tensor, y: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> None:
        """Add y to x; out = x / sqrt(mean(x^2) + eps) * weight. All [tokens, size]; weight: [size], float32."""

    def silu_mul(self, both: Tensor, out: Tensor) -> None:
        """Out [tokens, n] = silu(gate) * up. both: [tokens, 2 n], gate first."""

    def adapt(self, x: Tensor, y: Tensor, segments: Segments, cells: Cells) -> None:
        """For each cell: y[begin:end, columns of its segment] += weight * (x[begin:end] a^T) b, in its rows."""

    def attend(self, qkv: Tensor, places: Places, heads: Heads, block: int, out: Tensor) -> None:
        """Store the tokens' keys and values, then answer their queries.

        qkv: [tokens, (heads + 2 kv_heads) size], turned in place. Token i sees what its table holds of
        positions up to its own, within the window. out: [tokens, heads * size]. block: tokens of a block.
        """
