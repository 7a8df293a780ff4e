"""LoRA on one linear, from the tensors of its file to what goes into the pool.

Owns scaling, the row norms of DoRA, and what a trained bias adds. Does not know which tensors belong together,
nor where in the pool they will lie.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compute_worker.engine.host import HostModule, Magnitude
from compute_worker.engine.linear import AdaptedLinear
from compute_worker.engine.rows import HostRows
from compute_worker.engine.tensors import cast, taken
from lorry.errors import IncompatibleAdapter, InvalidAdapter, UnsupportedAdapter
from lorry.format.facts import AdaptedModule
from lorry.format.names import Part, tensor_name, tensor_names

# Rows of the base's weight that are widened to float32 at once: 8 MB at 2,048 features.
_NORM_ROWS = 1024


def lora(
    facts: AdaptedModule, target: AdaptedLinear, trained: str | None, rows: HostRows, tensors: Mapping[str, Tensor]
) -> HostModule:
    """What the pool takes, put into `rows`. trained: the tensor of the trained bias, None where the bias is the base's.

    Raises InvalidAdapter, IncompatibleAdapter, UnsupportedAdapter.
    """
    names = tensor_names(facts.name)
    a = rows.put(taken(tensors, names[0], (facts.rank, facts.in_features)), names[0])
    b = taken(tensors, names[1], (facts.out_features, facts.rank))
    b = rows.put(b, names[1], facts.scaling, turned=True)
    more = None if trained is None else bias_change(target, taken(tensors, trained, (facts.out_features,)), trained)
    if facts.magnitude:
        if facts.lora_bias:
            raise UnsupportedAdapter(f"{facts.name}: DoRA with lora_bias is not defined in PEFT and not served")
        m = taken(tensors, names[3], (facts.out_features,))
        return HostModule(a, b, None, _magnitude(m, target, a, b, names[3], more))
    if facts.lora_bias:
        bias = cast(taken(tensors, names[2], (facts.out_features,)).float() * facts.scaling, torch.float32, names[2])
        more = bias if more is None else bias + more
    return HostModule(a, b, more, None)


def biased(name: str, target: AdaptedLinear, tensors: Mapping[str, Tensor]) -> HostModule:
    """A linear of which the bias alone was trained. Raises InvalidAdapter, IncompatibleAdapter."""
    tensor = tensor_name(name, Part.BIAS)
    bias = taken(tensors, tensor, (target.out_features,))
    a, b = (torch.empty(0, width, dtype=target.a.dtype) for width in (target.in_features, target.out_features))
    return HostModule(a, b, bias_change(target, bias, tensor), None)


def bias_change(target: AdaptedLinear, bias: Tensor, name: str) -> Tensor:
    """What a trained bias [out] has more than the base's, float32. Raises InvalidAdapter, IncompatibleAdapter."""
    if target.base.bias is None:
        raise IncompatibleAdapter(f"{name}: expected a base whose module has a bias, this one's has none")
    return cast(bias, torch.float32, name) - target.base.bias.detach().float().cpu()


def _magnitude(m: Tensor, target: AdaptedLinear, a: Tensor, b: Tensor, name: str, more: Tensor | None) -> Magnitude:
    weight = target.rows()
    wide_a = a.to(weight.device).float()
    norms = [
        torch.linalg.vector_norm(rows.float() + columns.to(weight.device).float().T @ wide_a, dim=1)
        for rows, columns in zip(torch.split(weight, _NORM_ROWS), torch.split(b, _NORM_ROWS, dim=1), strict=True)
    ]
    gain = m.float() / torch.cat(norms).cpu()
    if not bool(torch.isfinite(gain).all()):
        raise InvalidAdapter(f"{name}: a row of the base's weight with its delta is zero, its magnitude has no meaning")
    bias = target.base.bias
    shift = None if bias is None else (1 - gain) * bias.detach().float().cpu()
    # Where the bias was trained the base has one, so there is a shift.
    return Magnitude(gain, shift if shift is None or more is None else shift + more)
