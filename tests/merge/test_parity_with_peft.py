"""Where PEFT is right, our tensors are PEFT's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compute_worker.merge import TorchCombiner
from tests.merge.support import (
    DOWN,
    Q,
    V,
    adapter,
    base_weight,
    combine,
    deltas,
    llama_modules,
    method,
    peft_combine,
    source,
)
from tests.support.models import tiny_model
from tests.support.peft_adapters import save_adapter

WEIGHTS = [(1.0, 1.0), (0.7, 0.2), (1.5, -0.5), (-1.0, -0.25), (0.0, 1.0), (0.0, 0.0)]
DENSITIES = [0.3, 0.5, 1.0]

# PEFT says at each density of 1 that it prunes nothing.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The density:UserWarning", "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("sources")
    return [adapter(root, 1, alpha=8), adapter(root, 2, alpha=2)]


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", ["linear", "cat"])
def test_methods_without_parameters(name: str, weights: tuple[float, ...], folders: list[Path], tmp_path: Path) -> None:
    assert_same(combine(tmp_path, method(name), folders, weights), peft_combine(folders, weights, name))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("density", [0.0, *DENSITIES])
def test_magnitude_prune(density: float, weights: tuple[float, ...], folders: list[Path], tmp_path: Path) -> None:
    ours = combine(tmp_path, method("magnitude_prune", density=density), folders, weights)
    assert_same(ours, peft_combine(folders, weights, "magnitude_prune", density=density))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("density", [0.0, *DENSITIES])
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_ties(sign: str, density: float, weights: tuple[float, ...], folders: list[Path], tmp_path: Path) -> None:
    ours = combine(tmp_path, method("ties", density=density, majority_sign=sign), folders, weights)
    assert_same(ours, peft_combine(folders, weights, "ties", density=density, majority_sign_method=sign))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_dare_that_drops_nothing(weights: tuple[float, ...], folders: list[Path], tmp_path: Path) -> None:
    linear = combine(tmp_path / "linear", method("dare_linear", density=1.0), folders, weights)
    assert_same(linear, peft_combine(folders, weights, "dare_linear", density=1.0))
    ties = combine(tmp_path / "ties", method("dare_ties", density=1.0, majority_sign="frequency"), folders, weights)
    theirs = peft_combine(folders, weights, "dare_ties", density=1.0, majority_sign_method="frequency")
    assert_same(ties, theirs)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("rank", [0, 1, 3, 8])
def test_svd_is_the_same_delta(rank: int, weights: tuple[float, ...], folders: list[Path], tmp_path: Path) -> None:
    ours = combine(tmp_path, method("svd", rank=rank), folders, weights)
    theirs = peft_combine(folders, weights, "svd", svd_rank=rank or None)
    assert deltas(ours).keys() == deltas(theirs).keys()
    for module, delta in deltas(ours).items():
        torch.testing.assert_close(delta, deltas(theirs)[module], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "cat", "ties"])
def test_three_sources_that_share_only_some_modules(name: str, tmp_path: Path) -> None:
    targets = (Q, V), (V, DOWN), (Q,)
    folders = [adapter(tmp_path, seed, llama_modules(4, *names)) for seed, names in enumerate(targets)]
    options = {"density": 0.5} if name == "ties" else {}
    weights = (0.5, -1.0, 2.0)
    ours = combine(tmp_path / "out", method(name, **options), folders, weights)
    theirs = peft_combine(folders, weights, name, **options)
    # PEFT's `cat` fills up with zeros where sources are missing; ours are of the rank that there is.
    for module, delta in deltas(ours).items():
        torch.testing.assert_close(delta, deltas(theirs)[module], rtol=1e-5, atol=1e-6)


def test_adapters_of_bfloat16_come_out_as_bfloat16(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed, dtype="BF16") for seed in (1, 2)]
    ours = combine(tmp_path / "out", method("linear"), folders, (0.5, 0.5))
    theirs = peft_combine(folders, (0.5, 0.5), "linear")  # in float32: PEFT widens adapters when it loads them
    for name, tensor in ours.items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor, theirs[name].to(torch.bfloat16), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["linear", "cat", "ties", "magnitude_prune"])
def test_an_embedding_merges_like_a_linear(name: str, tmp_path: Path) -> None:
    options = {"density": 0.5} if name in ("ties", "magnitude_prune") else {}
    folders = [embedding(tmp_path, seed) for seed in (1, 2)]
    ours = combine(tmp_path / "out", method(name, **options), folders, (0.7, -0.2))
    assert_same(ours, peft_combine(folders, (0.7, -0.2), name, **options))


def test_an_svd_of_embeddings_is_the_same_delta(tmp_path: Path) -> None:
    folders = [embedding(tmp_path, seed) for seed in (1, 2)]
    ours = combine(tmp_path / "out", method("svd", rank=3), folders, (0.7, -0.2))
    theirs = peft_combine(folders, (0.7, -0.2), "svd", svd_rank=3)
    assert ours.keys() == theirs.keys()
    a, b = (f"base_model.model.model.embed_tokens.lora_embedding_{side}" for side in "AB")
    torch.testing.assert_close(ours[b] @ ours[a], theirs[b] @ theirs[a], rtol=0, atol=1e-5)


def test_the_deviation_from_the_exact_sum_counts_embeddings(tmp_path: Path) -> None:
    folders = [embedding(tmp_path, seed) for seed in (1, 2)]
    sources = [source(folder, weight) for folder, weight in zip(folders, (0.7, -0.2), strict=True)]
    found = {}
    for name in ("cat", "linear"):
        combine(tmp_path / name, method(name), folders, (0.7, -0.2))
        found[name] = TorchCombiner(base_weight).compare(sources, tmp_path / name)
    assert found["cat"].worst_relative_error < 1e-6
    assert found["linear"].relative_error > 0.1


def embedding(folder: Path, seed: int) -> Path:
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["embed_tokens", "q_proj"]}
    return save_adapter(tiny_model("llama"), folder / str(seed), seed=seed, **options)
