"""What `check_method` says before any work starts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from compute_worker.combination import CombineMethod, CombineSource
from compute_worker.merge import METHODS, check_method
from compute_worker.merge.methods import Form
from lorry.errors import InvalidCombination, UnsupportedCombination
from tests.merge.support import DOWN, Q, adapter, llama_modules, method, source
from tests.support.tiny_kinds import KINDS


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[CombineSource]:
    root = tmp_path_factory.mktemp("sources")
    return [source(adapter(root, 1)), source(adapter(root, 2))]


@pytest.mark.parametrize(
    "recipe",
    [
        method("linear"),
        method("cat"),
        method("magnitude_prune", density=0),
        method("ties", density=1),
        method("ties", density=0.5, majority_sign="frequency"),
        method("dare_linear", density=1e-9),
        method("dare_ties", density=0.5, majority_sign="total", seed=2**64 - 1),
        method("svd"),
        method("svd", rank=0, clamp_quantile=1.0),
        method("sum"),
        method("dare_ties_svd", density=0.5, majority_sign="total", seed=1, rank=2, clamp_quantile=0.9),
    ],
)
def test_what_is_taken(recipe: CombineMethod, sources: list[CombineSource]) -> None:
    check_method(recipe, sources)


def test_defaults_are_filled_in(sources: list[CombineSource]) -> None:
    given = check_method(method("dare_ties", density=0.25), sources)
    assert (given.density, given.majority_sign, given.seed) == (0.25, "total", 0)
    assert check_method(method("svd"), sources).clamp_quantile is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (method("average"), "expected a method of linear"),
        (method("dare_ties_svd", density=0.0), r"density to be a number in \(0, 1\]"),
        (method("ties_svd", density=0.5, seed=1), "each at most once"),
        (method("linear", density=0.5), r"linear: expected of \[\] each at most once, got \['density'\]"),
        (method("ties"), r"ties: expected density, a number in \[0, 1\]; got none"),
        (method("ties", density=1.01), r"density to be a number in \[0, 1\], got 1.01"),
        (method("ties", density=-0.1), "density"),
        (method("ties", density=math.nan), "density"),
        (method("ties", density="half"), "density"),
        (method("ties", density=True), "density"),
        (method("ties", density=0.5, majority_sign="mean"), "'total' or 'frequency', got 'mean'"),
        (method("dare_ties", density=0), r"density to be a number in \(0, 1\], got 0"),
        (method("dare_linear", density=0.5, seed=-1), r"seed to be an integer in \[0, 2\^64\), got -1"),
        (method("dare_linear", density=0.5, seed=2**64), "seed"),
        (method("dare_linear", density=0.5, seed=1.0), "seed"),
        (method("svd", rank=-1), "rank to be an integer from 0 on, got -1"),
        (method("svd", clamp_quantile=0), r"clamp_quantile to be a number in \(0, 1\], got 0"),
        (CombineMethod("ties", (("density", 0.5), ("density", 0.6))), "each at most once"),
    ],
)
def test_what_is_refused_and_what_was_expected(
    recipe: CombineMethod, message: str, sources: list[CombineSource]
) -> None:
    with pytest.raises(InvalidCombination, match=message):
        check_method(recipe, sources)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_takes_a_single_source(name: str, sources: list[CombineSource]) -> None:
    required = {key: 0.5 for key, parameter in METHODS[name].parameters.items() if parameter.required}
    check_method(method(name, **required), sources[:1])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_lora_on_experts_is_refused_by_every_method(name: str, tmp_path: Path) -> None:
    required = {key: 0.5 for key, parameter in METHODS[name].parameters.items() if parameter.required}

    with pytest.raises(
        UnsupportedCombination, match=r"LoRA on stacked experts \(model.layers.1.mlp.experts.gate_up_proj"
    ):
        check_method(method(name, **required), [source(KINDS["experts"].write(tmp_path))])


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(InvalidCombination, match="at least one source"):
        check_method(method("linear"), [])


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(weight: float, sources: list[CombineSource]) -> None:
    with pytest.raises(InvalidCombination, match=f"finite weight for {sources[0].digest}, got {weight}"):
        check_method(method("linear"), [replace(sources[0], weight=weight), sources[1]])


def test_a_version_twice_is_refused(sources: list[CombineSource]) -> None:
    with pytest.raises(InvalidCombination, match="each version once"):
        check_method(method("linear"), [sources[0], sources[0]])


@pytest.mark.parametrize("name", sorted(name for name, how in METHODS.items() if how.form is Form.FACTORS))
def test_unequal_ranks_are_refused_where_factors_are_added(
    name: str, sources: list[CombineSource], tmp_path: Path
) -> None:
    other = source(adapter(tmp_path, 3, llama_modules(8)))
    required = {key: 0.5 for key, parameter in METHODS[name].parameters.items() if parameter.required}
    with pytest.raises(
        InvalidCombination,
        match=f"expected 4 in model.*, got 8 from {other.digest}; cat, sum and the methods with an svd take",
    ):
        check_method(method(name, **required), [sources[0], other])


def test_ranks_that_are_equal_where_it_matters_are_taken(tmp_path: Path) -> None:
    first = source(adapter(tmp_path, 1, llama_modules({Q: 2, DOWN: 4})))
    second = source(adapter(tmp_path, 2, llama_modules({DOWN: 4})))
    check_method(method("ties", density=0.5), [first, second])


def test_sources_of_different_bases_are_refused(sources: list[CombineSource], tmp_path: Path) -> None:
    other = source(adapter(tmp_path, 3, {f"model.layers.0.{Q}": (64, 64, 4)}))
    with pytest.raises(InvalidCombination, match="one base model, got 32 x 32 and 64 x 64 features"):
        check_method(method("cat"), [sources[0], other])
