"""Which merges there are, what each takes, and whether a recipe has a meaning.

Owns the table of methods with their parameters and ranges, and every check that needs no tensor:
`check_method` may be called before any work starts. Reads facts alone; does not know torch, nor how a
method is computed (`combiner` maps the names to the formulas).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compute_worker.contract import CombineMethod, CombineSource
from lorry.errors import InvalidCombination, UnsupportedCombination
from lorry.format.facts import AdaptedModule, Variant

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the methods take, with the defaults; each method uses those that `METHODS` allows it.

    density: share of values that is kept. majority_sign: how a sign is elected. seed: of DARE's draws.
    rank: of an svd's result, 0 for the largest among the sources. clamp_quantile: None clamps nothing.
    """

    density: float = 1.0
    majority_sign: str = "total"
    seed: int = 0
    rank: int = 0
    clamp_quantile: float | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a parameter may be: `expected` in words, `accepts` as a test; and whether it must be given."""

    expected: str
    accepts: Callable[[Value], bool]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """The parameters of a method by name, and whether it adds factors entry by entry (ranks must be equal)."""

    parameters: dict[str, Parameter]
    factorwise: bool = True


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_SHARE = Parameter("a number in [0, 1]", lambda value: _number(value) and 0 <= float(value) <= 1, required=True)
# DARE divides by the density.
_POSITIVE_SHARE = Parameter("a number in (0, 1]", lambda value: _number(value) and 0 < float(value) <= 1, required=True)
_SIGN = Parameter("'total' or 'frequency'", lambda value: value in ("total", "frequency"))
_SEED = Parameter("an integer in [0, 2^64)", lambda value: _integer(value) and 0 <= int(value) < 1 << 64)
_RANK = Parameter("an integer from 0 on", lambda value: _integer(value) and int(value) >= 0)
_QUANTILE = Parameter("a number in (0, 1]", lambda value: _number(value) and 0 < float(value) <= 1)

METHODS: dict[str, Method] = {
    "linear": Method({}),
    "cat": Method({}, factorwise=False),
    "magnitude_prune": Method({"density": _SHARE}),
    "ties": Method({"density": _SHARE, "majority_sign": _SIGN}),
    "dare_linear": Method({"density": _POSITIVE_SHARE, "seed": _SEED}),
    "dare_ties": Method({"density": _POSITIVE_SHARE, "majority_sign": _SIGN, "seed": _SEED}),
    "svd": Method({"rank": _RANK, "clamp_quantile": _QUANTILE}, factorwise=False),
}


def check_method(method: CombineMethod, sources: Sequence[CombineSource]) -> Parameters:
    """The method's parameters with defaults filled in, where method and sources have a meaning together.

    Raises InvalidCombination (the recipe has no meaning) and UnsupportedCombination (a source would lose
    something).
    """
    if method.name not in METHODS:
        raise InvalidCombination(f"expected a method of {', '.join(METHODS)}, got {method.name[:80]!r}")
    parameters = _check_parameters(method)
    _check_weights(sources)
    for source in sources:
        _check_source(source)
    _check_modules(sources, factorwise=METHODS[method.name].factorwise, name=method.name)
    return parameters


def _check_parameters(method: CombineMethod) -> Parameters:
    allowed = METHODS[method.name].parameters
    given: dict[str, Any] = dict(method.parameters)  # each value is checked below
    if len(given) != len(method.parameters) or not given.keys() <= allowed.keys():
        names = [name for name, _ in method.parameters]
        raise InvalidCombination(f"{method.name}: expected of {sorted(allowed)} each at most once, got {names}")
    for name, parameter in allowed.items():
        if name not in given and parameter.required:
            raise InvalidCombination(f"{method.name}: expected {name}, {parameter.expected}; got none")
        if name in given and not parameter.accepts(given[name]):
            raise InvalidCombination(f"{method.name}: expected {name} to be {parameter.expected}, got {given[name]!r}")
    return Parameters(**given)


def _check_weights(sources: Sequence[CombineSource]) -> None:
    if not sources:
        raise InvalidCombination("expected at least one source, got none")
    for source in sources:
        if not math.isfinite(source.weight):
            raise InvalidCombination(f"expected a finite weight for {source.digest}, got {source.weight}")
    if len({source.digest for source in sources}) < len(sources):
        raise InvalidCombination("expected each version once among the sources; add the weights instead")


def _check_source(source: CombineSource) -> None:
    if source.facts.variant is Variant.DORA or any(module.magnitude for module in source.facts.modules):
        raise UnsupportedCombination(
            f"{source.digest} is a DoRA adapter: its magnitudes belong to its own sum with the base and are lost in "
            "any combination of factors; expected lora or rslora"
        )
    if any(module.lora_bias for module in source.facts.modules):
        raise UnsupportedCombination(
            f"{source.digest} has lora_bias, which no combination of factors keeps; expected an adapter without it"
        )


def _check_modules(sources: Sequence[CombineSource], *, factorwise: bool, name: str) -> None:
    """Sources that share a module agree on its shape and, where factors are added, on its rank."""
    first: dict[str, AdaptedModule] = {}
    for source in sources:
        for module in source.facts.modules:
            other = first.setdefault(module.name, module)
            if (module.in_features, module.out_features) != (other.in_features, other.out_features):
                raise InvalidCombination(
                    f"{module.name}: expected sources of one base model, got {other.in_features} x "
                    f"{other.out_features} and {module.in_features} x {module.out_features} features"
                )
            if factorwise and module.rank != other.rank:
                raise InvalidCombination(
                    f"{name} needs equal ranks: expected {other.rank} in {module.name}, got {module.rank} from "
                    f"{source.digest}; cat and svd take any ranks"
                )
