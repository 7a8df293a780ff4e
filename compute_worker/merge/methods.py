"""Which merges there are, what each takes, and whether a recipe has a meaning.

Owns the table of methods with their parameters and ranges, and every check that needs no tensor:
`check_method` may be called before any work starts. Reads facts alone; does not know torch, nor how a
method is computed (`combiner` maps the names to the formulas).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from compute_worker.combination import CombineMethod, CombineSource
from compute_worker.merge.replacements import check_replacements
from lorry.errors import InvalidCombination, UnsupportedCombination
from lorry.format.facts import AdaptedModule, Variant

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the methods take, with the defaults; each method uses those that `METHODS` allows it.

    density: share of values that is kept. majority_sign: how a sign is elected. seed: of DARE's draws.
    rank: of an svd's result; 0 means the largest among the sources. clamp_quantile: None clamps nothing.
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


class Form(Enum):
    """What of its sources a method works on."""

    FACTORS = auto()  # A and B on their own, entry by entry: ranks must be equal
    STACK = auto()  # A and B beside each other: the sum of the deltas is kept
    DELTA = auto()  # the deltas, cut to a rank at the end: they may be anything, DoRA's too


@dataclass(frozen=True, slots=True)
class Method:
    """What a method works on, and its parameters by name."""

    form: Form
    parameters: dict[str, Parameter]


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

_TIES = {"density": _SHARE, "majority_sign": _SIGN}
_DARE = {"density": _POSITIVE_SHARE, "seed": _SEED}
_DARE_TIES = {"density": _POSITIVE_SHARE, "majority_sign": _SIGN, "seed": _SEED}
_CUT = {"rank": _RANK, "clamp_quantile": _QUANTILE}

METHODS: dict[str, Method] = {
    "linear": Method(Form.FACTORS, {}),
    "cat": Method(Form.STACK, {}),
    "sum": Method(Form.STACK, {}),
    "magnitude_prune": Method(Form.FACTORS, {"density": _SHARE}),
    "ties": Method(Form.FACTORS, _TIES),
    "dare_linear": Method(Form.FACTORS, _DARE),
    "dare_ties": Method(Form.FACTORS, _DARE_TIES),
    "svd": Method(Form.DELTA, _CUT),
    "magnitude_prune_svd": Method(Form.DELTA, {"density": _SHARE, **_CUT}),
    "ties_svd": Method(Form.DELTA, {**_TIES, **_CUT}),
    "dare_linear_svd": Method(Form.DELTA, {**_DARE, **_CUT}),
    "dare_ties_svd": Method(Form.DELTA, {**_DARE_TIES, **_CUT}),
}
_OF_DELTAS = ", ".join(name for name, method in METHODS.items() if method.form is Form.DELTA)


def check_method(method: CombineMethod, sources: Sequence[CombineSource]) -> Parameters:
    """The method's parameters with defaults filled in, where method and sources have a meaning together.

    Raises InvalidCombination (the recipe has no meaning) and UnsupportedCombination (a source would lose
    something).
    """
    if method.name not in METHODS:
        raise InvalidCombination(f"expected a method of {', '.join(METHODS)}, got {method.name[:80]!r}")
    parameters = _check_parameters(method)
    _check_weights(sources)
    _check_experts(sources)
    if METHODS[method.name].form is not Form.DELTA:
        for source in sources:
            _check_factors(source, method.name)
    _check_modules(sources, method.name)
    _check_activation(sources)
    _check_biases(sources)
    check_replacements(sources)
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


def _check_factors(source: CombineSource, name: str) -> None:
    """A DoRA's delta, m / |W + s B A| (W + s B A) - W, has the rank of W: no factors of a low rank hold it."""
    if source.facts.variant is Variant.DORA:
        raise UnsupportedCombination(
            f"{source.digest} is a DoRA adapter: its magnitudes scale the base's weights, so its delta is not in its "
            f"factors, which is what {name} combines; {_OF_DELTAS} compute it against the base and cut it to a rank"
        )


def _check_experts(sources: Sequence[CombineSource]) -> None:
    for source in sources:
        if source.facts.experts:
            raise UnsupportedCombination(
                f"{source.digest} has LoRA on stacked experts ({source.facts.experts[0].path}), which no method "
                "combines; a request may name several such adapters, each with a weight, which is the sum"
            )


def _check_activation(sources: Sequence[CombineSource]) -> None:
    """One adapter is active from one place on."""
    first, *others = sources
    for other in others:
        if other.facts.invocation != first.facts.invocation:
            said = [list(source.facts.invocation) or "the beginning" for source in (first, other)]
            raise UnsupportedCombination(
                f"{first.digest} is active from {said[0]} on and {other.digest} from {said[1]} on "
                "(alora_invocation_tokens): expected one place for all sources"
            )


def _check_biases(sources: Sequence[CombineSource]) -> None:
    """lora_bias is a statement about all of an adapter's modules, and PEFT knows none on an embedding."""
    modules = [(source, module) for source in sources for module in source.facts.modules]
    embedding = next((place for place in modules if place[1].embedding), None)
    biased = next((place for place in modules if place[1].lora_bias), None)
    if embedding and biased:
        raise UnsupportedCombination(
            f"{embedding[1].name}: {embedding[0].digest} adapts an embedding and {biased[0].digest} has lora_bias, "
            "which embeddings cannot have: the result would have both"
        )


def _check_modules(sources: Sequence[CombineSource], name: str) -> None:
    """Sources that share a module agree on its shape and, where factors are added, on its rank."""
    factorwise = METHODS[name].form is Form.FACTORS
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
                    f"{source.digest}; cat, sum and the methods with an svd take any ranks"
                )
