"""What a step is computed with: a few operations, each with a native and a torch form.

Owns the operations' meaning and the values that they take. Activations are float32 or wider than the
weights; a weight is widened where it is read. Does not know models or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from compute_worker.engine.additions import Additions


class Packed(Protocol):
    """A matrix [n, k] as the kernels read it."""

    @property
    def shape(self) -> tuple[int, int]:
        """n, k."""

    @property
    def nbytes(self) -> int:
        """Bytes that its numbers take."""

    def rows(self) -> Tensor:
        """The matrix itself, [n, k], in float32."""

    def lookup(self, ids: Tensor) -> Tensor:
        """Some of its rows, [ids, k], in float32. ids: [ids], int64. Raises IndexError where there is no such row."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Layers that share their input and lie side by side in one output: pool rows and first column of each.

    a: [rows, in] and b: [rows, out] of each layer; they stay where they are.
    """

    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    columns: tuple[int, ...]


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
    """Where the tokens of a step stand.

    rows: [requests, 4], int64: first token, end, position of the first one, and where the request's block
    ids begin in `tables` (int64). cos, sin: [tokens, size], float32.
    """

    rows: Tensor
    tables: Tensor
    cos: Tensor
    sin: Tensor


NOWHERE = Places(torch.empty(0, 4, dtype=torch.int64), torch.empty(0, dtype=torch.int64), *torch.empty(2, 0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Out [tokens, n] = x [tokens, k] weight^T + bias. bias: [n], float32."""

    x: Tensor
    weight: Packed
    bias: Tensor | None
    out: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Argmax:
    """best [tokens], int64 = the row of the largest x weight^T + bias; the first of equal ones."""

    x: Tensor
    weight: Packed
    bias: Tensor | None
    best: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class AddNorm:
    """Add y, where there is one, to x; out = x / sqrt(mean(x^2) + eps) * weight. All [tokens, size]."""

    x: Tensor
    y: Tensor | None
    weight: Tensor
    eps: float
    out: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SiluMul:
    """Out [tokens, n] = silu(gate) * up. both: [tokens, 2 n], gate first."""

    both: Tensor
    out: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapt:
    """Add to y what the step's adapters add to the product of this index; see Added."""

    x: Tensor
    y: Tensor
    segments: Segments
    product: int


@dataclass(frozen=True, slots=True, eq=False)
class Attend:
    """Store the tokens' keys and values, then answer their queries.

    qkv: [tokens, (heads + 2 kv_heads) size], turned in place. A token sees what its request's blocks hold of
    positions up to its own, within the window. out: [tokens, heads * size]. block: tokens of a block.
    """

    qkv: Tensor
    heads: Heads
    block: int
    out: Tensor


Operation = Linear | Argmax | AddNorm | SiluMul | Adapt | Attend


@dataclass(frozen=True, slots=True)
class Step:
    """What changes from step to step. tokens: how many of the operations' rows are used."""

    tokens: int
    places: Places
    additions: Additions


class Program(Protocol):
    """Operations in their order, ready to run again and again.

    What an operation makes for the next one alone may be left nowhere else.
    """

    def run(self, step: Step) -> None:
        """Run them all over the first `step.tokens` rows of their tensors."""


class Kernels(Protocol):
    """The operations. Everything that they write to is given; activations are contiguous float32."""

    @property
    def name(self) -> str:
        """Which ones they are, for the log and GetCapabilities."""

    @property
    def abreast(self) -> int:
        """Tokens that one pass over the weights serves: to read these is most of what a few tokens take."""

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Packed:
        """A copy of a matrix [n, k], stored in `dtype` or in fewer bits that hold its numbers exactly."""

    def program(self, operations: Sequence[Operation]) -> Program:
        """Make a program; it keeps what the operations hold."""
