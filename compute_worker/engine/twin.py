"""The operations in plain torch: the meaning of the native ones, and their oracle in tests.

Owns nothing but arithmetic. Any head size, rank, width and device. Does not know models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from compute_worker.engine.kernels import (
    Adapt,
    AddNorm,
    Argmax,
    Attend,
    Heads,
    Linear,
    Operation,
    Packed,
    Places,
    SiluMul,
    Step,
)


@dataclass(frozen=True, slots=True)
class TorchPacked:
    """A matrix as it is."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """See Packed."""
        n, k = self.weight.shape
        return n, k

    @property
    def nbytes(self) -> int:
        """See Packed."""
        return self.weight.nbytes

    def rows(self) -> Tensor:
        """See Packed."""
        return self.weight.float()

    def lookup(self, ids: Tensor) -> Tensor:
        """See Packed."""
        return functional.embedding(ids, self.weight).float()


class TorchKernels:
    """Kernels over torch."""

    name = "torch"
    abreast = 1

    def pack(self, weight: Tensor, dtype: torch.dtype) -> TorchPacked:
        """See Kernels."""
        return TorchPacked(weight.to(dtype, copy=True))

    def program(self, operations: Sequence[Operation]) -> TorchProgram:
        """See Kernels."""
        return TorchProgram(tuple(operations))


@dataclass(frozen=True, slots=True)
class TorchProgram:
    """Program over torch."""

    operations: tuple[Operation, ...]

    def run(self, step: Step) -> None:
        """See Program."""
        for operation in self.operations:
            _perform(operation, step)


def _perform(operation: Operation, step: Step) -> None:
    tokens = step.tokens
    match operation:
        case Linear(x, weight, bias, out):
            out[:tokens] = _product(x[:tokens], weight, bias)
        case Argmax(x, weight, bias, best):
            best[:tokens] = _product(x[:tokens], weight, bias).argmax(-1)
        case AddNorm(x, y, weight, eps, out):
            if y is not None:
                x[:tokens] += y[:tokens]
            out[:tokens] = _rms_norm(x[:tokens], weight, eps)
        case SiluMul(both, out):
            gate, up = both[:tokens].chunk(2, -1)
            out[:tokens] = functional.silu(gate) * up
        case Adapt():
            _adapt(operation, step)
        case Attend(qkv, heads, block, out):
            _attend(qkv[:tokens], step.places, heads, block, out)


def _product(x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
    return functional.linear(x, weight.rows(), bias)


def _adapt(operation: Adapt, step: Step) -> None:
    added, segments = step.additions.products[operation.product], operation.segments
    for cell in added.cells:
        rows = slice(cell.first, cell.first + cell.rank)
        a, b = segments.a[cell.segment][rows].float(), segments.b[cell.segment][rows].float()
        column = segments.columns[cell.segment]
        z = operation.x[cell.begin : cell.end] @ a.T * cell.weight
        operation.y[cell.begin : cell.end, column : column + b.shape[1]].addmm_(z, b)
    for touch in added.touches:
        column, width = segments.columns[touch.segment], segments.b[touch.segment].shape[1]
        y = operation.y[touch.begin : touch.end, column : column + width]
        if touch.gain is not None:
            y *= touch.gain
        if touch.shift is not None:
            y += touch.weight * touch.shift


def _attend(qkv: Tensor, places: Places, heads: Heads, block: int, out: Tensor) -> None:
    split = qkv.view(len(qkv), heads.heads + 2 * heads.kv_heads, heads.size)
    q, k, v = torch.split(split, [heads.heads, heads.kv_heads, heads.kv_heads], 1)
    q.copy_(_turned(q, heads.q_norm, heads, places))
    k.copy_(_turned(k, heads.k_norm, heads, places))
    for begin, end, position, first_block in places.rows.tolist():
        table, last = places.tables[first_block:], position + end - begin
        slots = _slots(table, position, last, block)
        heads.keys[slots] = k[begin:end].to(heads.keys.dtype)
        heads.values[slots] = v[begin:end].to(heads.values.dtype)
        for token in range(begin, end):
            seen = position + token - begin + 1
            first = max(0, seen - heads.window) if heads.window else 0
            out[token] = _answer(q[token], _slots(table, first, seen, block), heads).flatten()


def _slots(table: Tensor, begin: int, end: int, block: int) -> Tensor:
    positions = torch.arange(begin, end, device=table.device)
    return table[positions // block] * block + positions % block


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def _turned(x: Tensor, norm: Tensor | None, heads: Heads, places: Places) -> Tensor:
    """Queries or keys [tokens, heads, size], normed and rotated."""
    if norm is not None:
        x = _rms_norm(x, norm, heads.eps)
    if not heads.rotary:
        return x
    half = heads.size // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * places.cos[:, None] + turned * places.sin[:, None]


def _answer(query: Tensor, slots: Tensor, heads: Heads) -> Tensor:
    """Output [heads, size] of one token's queries [heads, size]."""
    keys, values = (memory[slots].to(query.dtype).transpose(0, 1) for memory in (heads.keys, heads.values))
    grouped = query.view(heads.kv_heads, -1, heads.size)
    return functional.scaled_dot_product_attention(grouped[None], keys[None], values[None], scale=heads.scaling)[0]
