"""`TorchCombiner`: sources in, a merged adapter on disk out.

Owns the way from a recipe to a result: check, read, one formula a module, write; and the table from
methods to formulas. A module that only some sources adapt uses only those. Does not know where sources
come from, names, caches or the wire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path

import torch
from torch import Tensor

from compute_worker.contract import CombineMethod, CombineSource
from compute_worker.merge.factorwise import elected_mean, generator_of, keep_largest, keep_random, weighted_sum
from compute_worker.merge.files import read_factors, write_adapter
from compute_worker.merge.methods import Parameters, check_method
from compute_worker.merge.stacked import Factors, stack, truncate


class TorchCombiner:
    """The merges of `methods.METHODS`, computed on the CPU in fp32 and stored in the sources' widest dtype."""

    def combine(self, method: CombineMethod, sources: Sequence[CombineSource], into: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors of the result into `into`.

        Equal recipes on equal sources give equal bytes. Raises InvalidCombination, UnsupportedCombination,
        DataLoss (a source's file is damaged). Nothing is written where it raises.
        """
        parameters = check_method(method, sources)
        if not parameters.rank:
            parameters = replace(parameters, rank=max(source.facts.rank for source in sources))
        parts, dtype = _read(sources)
        merge = _MERGES[method.name]
        merged = {module: merge(module, parts[module], parameters) for module in sorted(parts)}
        write_adapter(into, merged, dtype, sources)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one source has to say about one module."""

    digest: str
    factors: Factors
    weight: float
    scaling: float


def _read(sources: Sequence[CombineSource]) -> tuple[dict[str, list[_Part]], torch.dtype]:
    """What there is to merge by module, in the order of the sources, and the widest dtype among them."""
    parts: dict[str, list[_Part]] = {}
    dtypes = []
    for source in sources:
        factors, dtype = read_factors(source)
        dtypes.append(dtype)
        for module in source.facts.modules:
            part = _Part(source.digest, factors[module.name], source.weight, module.scaling)
            parts.setdefault(module.name, []).append(part)
    return parts, reduce(torch.promote_types, dtypes)


# (factor, "A" or "B", digest of its source) -> the factor with some values set to 0.
_Prune = Callable[[Tensor, str, str], Tensor]
_Add = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


def _by_factor(parts: Sequence[_Part], prune: _Prune, add: _Add) -> Factors:
    """Prune and add A and B on their own: v_i = sgn(c_i) sqrt|c_i| on A, sqrt|c_i| on B, c_i = w_i s_i."""
    coefficients = [part.weight * part.scaling for part in parts]
    roots = [math.sqrt(abs(coefficient)) for coefficient in coefficients]
    signed = [math.copysign(root, coefficient) for root, coefficient in zip(roots, coefficients, strict=True)]
    return Factors(
        add([prune(part.factors.a, "A", part.digest) for part in parts], signed),
        add([prune(part.factors.b, "B", part.digest) for part in parts], roots),
    )


def _keep_all(factor: Tensor, _side: str, _digest: str) -> Tensor:
    return factor


def _largest(parameters: Parameters) -> _Prune:
    return lambda factor, _side, _digest: keep_largest(factor, parameters.density)


def _random(module: str, parameters: Parameters) -> _Prune:
    def prune(factor: Tensor, side: str, digest: str) -> Tensor:
        return keep_random(factor, parameters.density, generator_of(parameters.seed, module, side, digest))

    return prune


def _elect(parameters: Parameters) -> _Add:
    return partial(elected_mean, majority_sign=parameters.majority_sign)


def _cat(parts: Sequence[_Part]) -> Factors:
    weights, scalings = [part.weight for part in parts], [part.scaling for part in parts]
    return stack([part.factors for part in parts], weights, scalings)


_Merge = Callable[[str, Sequence[_Part], Parameters], Factors]

_MERGES: dict[str, _Merge] = {
    "linear": lambda _module, parts, _parameters: _by_factor(parts, _keep_all, weighted_sum),
    "cat": lambda _module, parts, _parameters: _cat(parts),
    "magnitude_prune": lambda _module, parts, given: _by_factor(parts, _largest(given), weighted_sum),
    "ties": lambda _module, parts, given: _by_factor(parts, _largest(given), _elect(given)),
    "dare_linear": lambda module, parts, given: _by_factor(parts, _random(module, given), weighted_sum),
    "dare_ties": lambda module, parts, given: _by_factor(parts, _random(module, given), _elect(given)),
    "svd": lambda _module, parts, given: truncate(_cat(parts), given.rank, given.clamp_quantile),
}
