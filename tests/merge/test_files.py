"""What a merge leaves on disk: an adapter that PEFT and Lorry load, the same bytes each time, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from compute_worker.combination import CombineMethod
from compute_worker.merge import TorchCombiner
from lorry.errors import DataLoss, InvalidCombination, LorryError, UnsupportedCombination
from lorry.format.bundle import check_bundle
from tests.merge.support import (
    DOWN,
    RECIPES,
    Q,
    V,
    adapter,
    base_weight,
    combine,
    deltas,
    llama_modules,
    method,
    source,
)
from tests.support.adapters import CONFIG, WEIGHTS
from tests.support.models import tiny_model

METHODS = [method(name, **parameters) for name, parameters in RECIPES.items()]
TOKENS = torch.tensor([[5, 17, 3, 99, 42]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("sources")
    return [adapter(root, 1, rslora=True, alpha=3), adapter(root, 2, llama_modules(4, Q, DOWN))]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("recipe", METHODS, ids=lambda recipe: recipe.name)
def test_peft_loads_the_result_with_the_logits_of_the_formula(
    recipe: CombineMethod, folders: list[Path], tmp_path: Path
) -> None:
    tensors = combine(tmp_path, recipe, folders, (0.6, -0.3))
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    dense = tiny_model("llama")
    for module, delta in deltas(tensors).items():
        dense.get_submodule(module.removeprefix("base_model.model.")).weight += delta.float()
    with torch.inference_mode():
        expected, base = dense(TOKENS).logits, tiny_model("llama")(TOKENS).logits
        torch.testing.assert_close(loaded.eval()(TOKENS).logits, expected, rtol=0, atol=1e-4)
    assert (expected - base).abs().max() > 0.01


@pytest.mark.parametrize("recipe", METHODS, ids=lambda recipe: recipe.name)
def test_the_same_recipe_gives_the_same_bytes(recipe: CombineMethod, folders: list[Path], tmp_path: Path) -> None:
    combine(tmp_path / "first", recipe, folders, (0.6, -0.3))
    combine(tmp_path / "second", recipe, folders, (0.6, -0.3))
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert files(tmp_path / "first").keys() == {CONFIG, WEIGHTS}


def test_another_seed_gives_other_bytes(folders: list[Path], tmp_path: Path) -> None:
    first = combine(tmp_path / "first", method("dare_linear", density=0.5, seed=1), folders, (1.0, 1.0))
    second = combine(tmp_path / "second", method("dare_linear", density=0.5, seed=2), folders, (1.0, 1.0))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_what_dare_drops_of_one_source_does_not_depend_on_the_others(folders: list[Path], tmp_path: Path) -> None:
    how = method("dare_linear", density=0.5, seed=1)
    alone = combine(tmp_path / "alone", how, folders[:1], (1.0,))
    beside = combine(tmp_path / "beside", how, folders, (1.0, 0.0))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, beside[name], rtol=0, atol=0)


def test_the_configuration_says_plain_lora_of_scaling_1_on_the_sources_base(
    folders: list[Path], tmp_path: Path
) -> None:
    combine(tmp_path, method("cat"), folders, (1.0, 1.0))
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["base_model_name_or_path"] == source(folders[0]).facts.base_name
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["use_dora"]) == (8, 8, False, False)
    assert config["target_modules"] == sorted(llama_modules(1))
    facts = check_bundle(tmp_path).facts
    assert {module.scaling for module in facts.modules} == {1.0}
    assert {module.name.rpartition(".")[2]: module.rank for module in facts.modules} == {
        "q_proj": 8,
        "down_proj": 8,
        "v_proj": 4,  # the second source has none
    }


def test_a_path_that_ends_another_path_keeps_its_own_rank(tmp_path: Path) -> None:
    modules = {"proj": (8, 8, 2), "head.proj": (8, 8, 4), "deep.head.proj": (8, 8, 1)}
    combine(tmp_path / "out", method("cat"), [adapter(tmp_path, 1, modules)], (1.0,))
    ranks = {module.name: module.rank for module in check_bundle(tmp_path / "out").facts.modules}
    assert ranks == {name: rank for name, (_, _, rank) in modules.items()}


def test_a_source_that_targets_by_pattern_is_named_module_by_module(tmp_path: Path) -> None:
    folder = adapter(tmp_path, 1, llama_modules(4, V), config={"target_modules": ".*v_proj", "fan_in_fan_out": True})
    combine(tmp_path / "out", method("linear"), [folder], (1.0,))
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert config["target_modules"] == [f"model.layers.{layer}.{V}" for layer in range(2)]
    assert config["fan_in_fan_out"] is True


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [(("BF16", "BF16"), "BF16"), (("F16", "F16"), "F16"), (("BF16", "F16"), "F32"), (("BF16", "F32"), "F32")],
)
def test_the_result_has_the_widest_type_of_the_sources(dtypes: tuple[str, str], expected: str, tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed, dtype=dtype) for seed, dtype in enumerate(dtypes)]
    combine(tmp_path / "out", method("cat"), folders, (1.0, 1.0))
    assert check_bundle(tmp_path / "out").facts.dtype == expected


def refused(into: Path, how: CombineMethod, folder: Path, weight: float, error: type[LorryError]) -> str:
    """Asserts that combining raises and leaves nothing; answers the message."""
    taken = source(folder, weight)
    with pytest.raises(error) as caught:
        TorchCombiner(base_weight).combine(how, [taken], into)
    assert not into.exists() or list(into.iterdir()) == []
    return caught.value.message


def test_a_result_that_its_type_cannot_hold_is_refused_and_nothing_written(tmp_path: Path) -> None:
    folder = adapter(tmp_path, 1, dtype="F16")
    message = refused(tmp_path / "out", method("cat"), folder, 1e6, InvalidCombination)
    assert "expected values that torch.float16 holds" in message


@pytest.mark.parametrize("recipe", METHODS, ids=lambda recipe: recipe.name)
def test_a_weight_that_no_float_holds_is_refused_by_every_method(recipe: CombineMethod, tmp_path: Path) -> None:
    refused(tmp_path / "out", recipe, adapter(tmp_path, 1), 1e300, InvalidCombination)


def test_a_recipe_without_meaning_writes_nothing(tmp_path: Path) -> None:
    refused(tmp_path / "out", method("ties"), adapter(tmp_path, 1), 1.0, InvalidCombination)


def test_a_file_cut_short_since_it_was_verified_is_data_loss(tmp_path: Path) -> None:
    folder = adapter(tmp_path, 1)
    taken = source(folder)
    whole = taken.weights.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        taken.weights.write_bytes(whole[:size])
        with pytest.raises(DataLoss, match=f"{taken.digest}: expected a sound safetensors file"):
            TorchCombiner(base_weight).combine(method("linear"), [taken], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_another_adapters_is_data_loss(tmp_path: Path) -> None:
    taken = source(adapter(tmp_path, 1))
    other = adapter(tmp_path, 2, llama_modules(4, Q))
    taken.weights.write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(DataLoss, match=r"expected a tensor .*down_proj\.lora_A\.weight, got none"):
        TorchCombiner(base_weight).combine(method("linear"), [taken], tmp_path / "out")


def test_tensors_that_a_merge_would_lose_are_refused(tmp_path: Path) -> None:
    taken = source(adapter(tmp_path, 1))
    tensors = load_file(taken.weights)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}, taken.weights)
    with pytest.raises(UnsupportedCombination, match=r"would lose .*lm_head\.weight"):
        TorchCombiner(base_weight).combine(method("cat"), [taken], tmp_path / "out")
