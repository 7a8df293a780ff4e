"""The kernels in plain torch: the meaning of the native ones, and what serves where those cannot run.

Owns nothing but arithmetic. Any head size, rank, width and device. Does not know models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compute_worker.engine.kernels import Cells, Heads, Places, Segments


class TorchKernels:
    """Kernels over torch."""

    name = "torch"

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """See Kernels."""
        torch.mm(x, weight.to(x.dtype).T, out=out)
        if bias is not None:
            out += bias

    def argmax(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Sequence[int]:
        """See Kernels."""
        scores = functional.linear(x, weight.to(x.dtype), bias)
        best: list[int] = scores.argmax(-1).tolist()
        return best

    def add_norm(self, x: Tensor, y: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> None:
        """See Kernels."""
        if y is not None:
            x += y
        out.copy_(_rms_norm(x, weight, eps))

    def silu_mul(self, both: Tensor, out: Tensor) -> None:
        """See Kernels."""
        gate, up = both.chunk(2, -1)
        torch.mul(functional.silu(gate), up, out=out)

    def adapt(self, x: Tensor, y: Tensor, segments: Segments, cells: Cells) -> None:
        """See Kernels."""
        for cell in cells.items:
            rows = slice(cell.first, cell.first + cell.rank)
            a, b = segments.a[cell.segment][rows].to(x.dtype), segments.b[cell.segment][rows].to(x.dtype)
            column = segments.columns[cell.segment]
            z = x[cell.begin : cell.end] @ a.T * cell.weight
            y[cell.begin : cell.end, column : column + b.shape[1]].addmm_(z, b)

    def attend(self, qkv: Tensor, places: Places, heads: Heads, block: int, out: Tensor) -> None:
        """See Kernels."""
        split = qkv.view(len(qkv), heads.heads + 2 * heads.kv_heads, heads.size)
        q, k, v = torch.split(split, [heads.heads, heads.kv_heads, heads.kv_heads], 1)
        q.copy_(_turned(q, heads.q_norm, heads, places))
        k.copy_(_turned(k, heads.k_norm, heads, places))
        heads.keys.index_copy_(0, places.slots, k.to(heads.keys.dtype))
        heads.values.index_copy_(0, places.slots, v.to(heads.values.dtype))
        for token in range(len(qkv)):
            out[token] = _answer(q[token], token, places, heads, block).flatten()


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


def _answer(query: Tensor, token: int, places: Places, heads: Heads, block: int) -> Tensor:
    """Output [heads, size] of one token's queries [heads, size]."""
    end = int(places.positions[token]) + 1
    begin = max(0, end - heads.window) if heads.window else 0
    positions = torch.arange(begin, end, device=query.device)
    table = places.tables[int(places.first_block[token]) :]
    slots = table[positions // block] * block + positions % block
    keys, values = (memory[slots].to(query.dtype).transpose(0, 1) for memory in (heads.keys, heads.values))
    grouped = query.view(heads.kv_heads, -1, heads.size)
    return functional.scaled_dot_product_attention(grouped[None], keys[None], values[None], scale=heads.scaling)[0]
