"""LoRA on stacked experts: what adapters add to the products of one expert, and the forward that lets them.

Owns that forward, which stands in for an experts module's own while a step changes it, and which modules it can
stand in for: it was tried against theirs. Does not know who chooses experts, nor which adapters there are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compute_worker.engine.changes import Use
from compute_worker.engine.tensors import cast, taken
from lorry.checkpoint import packed
from lorry.format.extras import STACKED
from lorry.format.facts import AdaptedExperts
from lorry.format.names import experts_names

# Parameters of a module that stack matrices: [experts, out, in] or [experts, in, out].
_STACK = 3
# Tokens that a module is tried with, and experts that each of them goes to.
_TRIED = 2


@dataclass(frozen=True, slots=True)
class Factors:
    """LoRA on each matrix of a stack. a: [experts, rank, in]; b: [experts, rank, out], with the scaling in it."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True)
class ExpertLora:
    """LoRA on the experts of one module, by the parameter that stacks their weights."""

    factors: Mapping[str, Factors]

    def tensors(self) -> Iterator[Tensor]:
        """Everything that takes memory."""
        for each in self.factors.values():
            yield from (each.a, each.b)

    def on(self, device: torch.device) -> ExpertLora:
        """The same on a device."""
        return ExpertLora({name: Factors(each.a.to(device), each.b.to(device)) for name, each in self.factors.items()})


ExpertUse = Use[ExpertLora]


def is_experts(module: nn.Module) -> bool:
    """Whether its parameters are those of stacked experts, by what they are."""
    own = dict(module.named_parameters(recurse=False))
    return all(name in own and own[name].dim() == _STACK and not packed(own[name]) for name in STACKED)


@torch.inference_mode()
def is_known(module: Any, tolerance: float) -> bool:
    """Whether `routed` computes what the module does. tolerance: of the error, relative to the norm of the output."""
    # What else a module may do, as transformers' experts interface says it; of others nothing is known.
    if not getattr(module, "has_gate", False) or getattr(module, "has_post_expert_norm", True):
        return False
    count, size = len(module.down_proj), _sides(module, "gate_up_proj")[0]
    parameter = module.gate_up_proj
    noise = torch.Generator(parameter.device).manual_seed(0)
    x = torch.randn(_TRIED, size, generator=noise, dtype=parameter.dtype, device=parameter.device)
    ids = torch.tensor([[0, count - 1], [count - 1, 0]], device=parameter.device)
    weights = torch.full_like(ids, 0.5, dtype=parameter.dtype)
    expected = module.forward(x, ids, weights).float()
    return bool((routed(module, (), x, ids, weights).float() - expected).norm() <= tolerance * expected.norm())


def expert_lora(module: nn.Module, facts: Sequence[AdaptedExperts], tensors: Mapping[str, Tensor]) -> ExpertLora:
    """From the tensors of a file, of the base's shapes. Raises InvalidAdapter, IncompatibleAdapter."""
    factors = {}
    for one in facts:
        parameter = module.get_parameter(one.parameter)
        in_a, in_b = experts_names(one)
        a = taken(tensors, in_a, (one.experts * one.rank, one.in_features)).view(one.experts, one.rank, -1)
        b = taken(tensors, in_b, (one.out_features, one.rank * one.experts)).float() * one.scaling
        b = b.view(-1, one.rank, one.experts).permute(2, 1, 0)
        factors[one.parameter] = Factors(cast(a, parameter.dtype, in_a), cast(b, parameter.dtype, in_b))
    return ExpertLora(factors)


def routed(module: Any, uses: Sequence[ExpertUse], x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The output [tokens, size] of an experts module, as uses change it.

    x: [tokens, size]. chosen: [tokens, k], the experts of each; weights: [tokens, k], of each in the sum.
    """
    pairs, ratio = chosen.flatten(), weights.reshape(-1, 1)
    # An expert's pairs side by side, in order of their tokens, so that those of a use are a slice of them.
    order = pairs.sort(stable=True).indices
    tokens = order // chosen.shape[1]
    at, counts = tokens.tolist(), pairs.bincount(minlength=len(module.down_proj)).tolist()
    parts = torch.zeros(len(pairs), x.shape[1], dtype=torch.promote_types(x.dtype, weights.dtype), device=x.device)
    begin = 0
    for expert, count in enumerate(counts):
        end = begin + count
        if count:
            spans = [(_span(at, begin, end, use.tokens), use) for use in uses]
            gate_up = _product(module, "gate_up_proj", expert, x[tokens[begin:end]], spans)
            hidden = module._apply_gate(gate_up)  # noqa: SLF001 - transformers' own experts functions call it so
            out = _product(module, "down_proj", expert, hidden, spans)
            parts[order[begin:end]] = out * ratio[order[begin:end]]
        begin = end
    # Summed at once, which torch does in float32 whatever the type.
    return parts.view(*chosen.shape, -1).sum(1).to(x.dtype)


def _span(at: Sequence[int], begin: int, end: int, tokens: slice) -> slice:
    """Where tokens lie among those of pairs [begin, end), which ascend."""
    first, last = (bisect_left(at, edge, begin, end) - begin for edge in (tokens.start, tokens.stop))
    return slice(first, last)


def _product(module: Any, parameter: str, expert: int, x: Tensor, spans: Sequence[tuple[slice, ExpertUse]]) -> Tensor:
    """One expert's product with the tokens that chose it, and what adapters add for some of them."""
    weight = getattr(module, parameter)[expert]
    bias = getattr(module, f"{parameter}_bias")[expert] if module.has_bias else None
    y = functional.linear(x, weight.T if module.is_transposed else weight, bias)
    for span, use in spans:
        factors = use.change.factors.get(parameter)
        if factors is not None and span.start < span.stop:
            z = functional.linear(x[span], factors.a[expert].to(x.dtype))
            y[span].addmm_(z, factors.b[expert].to(y.dtype), alpha=use.weight)
    return y


def _sides(module: Any, parameter: str) -> tuple[int, int]:
    """(in, out) of a stack's matrices."""
    _, rows, columns = getattr(module, parameter).shape
    return (rows, columns) if module.is_transposed else (columns, rows)
