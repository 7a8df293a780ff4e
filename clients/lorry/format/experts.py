"""LoRA on stacked experts: which tensors it takes, and what their shapes say.

PEFT wraps a module once for each parameter that `target_parameters` names: where there are two, the first one's
tensors lie one wrapper further in. Owns the rule that tensors and configuration match, and that both parameters
are of the same experts. Does not know which base an adapter was made for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lorry.errors import InvalidAdapter
from lorry.format.config import AdapterConfig
from lorry.format.extras import STACKED
from lorry.format.facts import AdaptedExperts
from lorry.format.header import matrix
from lorry.format.names import Part, ends, stray
from lorry.format.replaced import Parts

_OUTER = (Part.A, Part.B)
_INNER = (Part.INNER_A, Part.INNER_B)


def adapted_experts(found: Mapping[str, Parts], config: AdapterConfig) -> tuple[AdaptedExperts, ...]:
    """The experts that are adapted. Raises InvalidAdapter where tensors and target_parameters do not match."""
    adapted = tuple(one for name, parts in found.items() for one in _of_module(name, parts, config))
    named = {end for one in adapted for end in ends(one.path)}
    if missing := config.extras.parameters - named:
        raise InvalidAdapter(f"target_parameters names {min(missing)}, the file has no tensors for it")
    return adapted


def _of_module(name: str, parts: Parts, config: AdapterConfig) -> Iterator[AdaptedExperts]:
    parameters = config.extras.parameters_of(name)
    if not parameters:
        if Part.INNER_A in parts or Part.INNER_B in parts:
            raise stray(next(parts[part].name for part in _INNER if part in parts))
        return
    if config.targets is not None and config.is_target(name):
        raise InvalidAdapter(f"{name}: target_modules and target_parameters both name it, which PEFT refuses")
    places = (_OUTER,) if len(parameters) == 1 else (_INNER, _OUTER)
    expected = {part for place in places for part in place}
    if parts.keys() != expected:
        raise InvalidAdapter(
            f"{name}: expected {', '.join(sorted(expected))} for {' and '.join(parameters)} of target_parameters, "
            f"got {', '.join(sorted(parts))}"
        )
    stacked = [_stacked(name, each, parts, place, config) for each, place in zip(parameters, places, strict=True)]
    if len(stacked) == len(STACKED):
        _check_same(*stacked)
    yield from stacked


def _stacked(name: str, parameter: str, parts: Parts, place: Sequence[Part], config: AdapterConfig) -> AdaptedExperts:
    path = f"{name}.{parameter}"
    (rows, in_features), (out_features, columns) = (matrix(parts[part]) for part in place)
    rank = config.rank_of(path)
    if rows != columns or rows % rank:
        raise InvalidAdapter(
            f"{path}: expected {rank} rows of A and columns of B for each expert by the configuration, got {rows} and "
            f"{columns} in all"
        )
    scaling = config.scaling_of(path)
    return AdaptedExperts(name, parameter, rows // rank, rank, scaling, in_features, out_features, place is _INNER)


def _check_same(gate_up: AdaptedExperts, down: AdaptedExperts) -> None:
    """Gate and up are two halves of one width; down leads back from it. Swapped, they never fit."""
    back = (gate_up.experts, gate_up.out_features, gate_up.in_features)
    if back != (down.experts, 2 * down.in_features, down.out_features):
        told = [
            f"{each.parameter} of {each.experts} experts, {each.in_features} -> {each.out_features}"
            for each in (gate_up, down)
        ]
        raise InvalidAdapter(f"{gate_up.name}: expected two parameters of the same experts, got {' and '.join(told)}")
