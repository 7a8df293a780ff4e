"""How far a result is from the exact weighted sum of its sources' deltas.

Owns the measure: Frobenius norms over all modules, biases as one more column. It reads the result back
as it was stored, so cross terms, pruning, a cut rank and the rounding of its type all count. Does not
know the method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from compute_worker.combination import Deviation
from compute_worker.merge.operators import Again, weighted_sum
from compute_worker.merge.room import check_room
from compute_worker.merge.sources import BaseWeight, Share, Sources
from compute_worker.merge.stacked import Factors, norm
from lorry.format.bundle import WEIGHTS_NAME
from lorry.format.names import Part, lora_names, tensor_name


def deviation(sources: Sources, made: Path, base: BaseWeight) -> Deviation:
    """|result - exact| / |exact| of the adapter in the folder `made`, whose scaling is 1 everywhere."""
    tensors = load_file(made / WEIGHTS_NAME)
    errors, exacts = {}, {}
    for module, facts in sources.modules.items():
        parts = sources.parts(module)
        a, b, *_ = lora_names(facts)
        bias = tensor_name(module, Part.B_BIAS)
        result = Factors(tensors[a].double(), tensors[b].double())
        if any(part.magnitude is not None for part in parts):
            check_room(facts, "a comparison with DoRA")
            size, error = _of_dense(parts, base, result, module)
        else:
            exact = _exact(parts)
            size, error = norm(exact), norm(_less(result, exact))
        off = _bias_sum(parts, result.b.shape[0])
        told = tensors[bias].double() if bias in tensors else torch.zeros_like(off)
        exacts[module] = math.hypot(size, float(off.norm()))
        errors[module] = math.hypot(error, float((told - off).norm()))
    worst = max(sources.modules, key=lambda module: _relative(errors[module], exacts[module]))
    return Deviation(
        relative_error=_relative(math.hypot(*errors.values()), math.hypot(*exacts.values())),
        worst_module=worst,
        worst_relative_error=_relative(errors[worst], exacts[worst]),
    )


def _exact(parts: Sequence[Share]) -> Factors:
    """sum_i w_i s_i B_i A_i as factors in fp64."""
    weighted = [part.weight * part.scaling * part.factors.a.double() for part in parts]
    return Factors(torch.cat(weighted), torch.cat([part.factors.b.double() for part in parts], dim=1))


def _of_dense(parts: Sequence[Share], base: BaseWeight, result: Factors, module: str) -> tuple[float, float]:
    """Norms of sum_i w_i dW_i, which no factors hold, and of what the result is off, in the memory of one delta."""
    deltas = Again(lambda: (part.delta(partial(base, module)) for part in parts))
    exact = weighted_sum(deltas, [part.weight for part in parts])
    size = float(exact.norm())
    return size, float(exact.addmm_(result.b, result.a, alpha=-1).norm())


def _bias_sum(parts: Sequence[Share], width: int) -> Tensor:
    total = torch.zeros(width, dtype=torch.float64)
    for part in parts:
        if part.bias is not None:
            total += part.weight * part.scaling * part.bias
    return total


def _less(one: Factors, other: Factors) -> Factors:
    return Factors(torch.cat([one.a, other.a]), torch.cat([one.b, -other.b], dim=1))


def _relative(error: float, exact: float) -> float:
    """0 where there is no error; infinite where there is nothing that it could be a part of."""
    return error / exact if exact else (math.inf if error else 0.0)
