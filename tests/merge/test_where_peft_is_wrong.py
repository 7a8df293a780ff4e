"""Cases that PEFT 0.21.2 gets wrong: what it does, and what we do instead."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorry.errors import InvalidCombination
from lorry.format.bundle import check_bundle
from tests.merge.support import (
    DOWN,
    Q,
    adapter,
    combine,
    deltas,
    llama_modules,
    method,
    peft_combine,
    peft_model,
)
from tests.support.adapters import WEIGHTS
from tests.support.models import tiny_model
from tests.support.peft_adapters import save_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def exact_sum(folders: list[Path], weights: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """sum w_i s_i B_i A_i by module, from PEFT's own delta of each source."""
    model = peft_model(folders)
    total: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        for number, weight in enumerate(weights):
            if f"a{number}" in getattr(module, "lora_A", {}):
                delta = weight * module.get_delta_weight(f"a{number}").detach().double()
                total[name] = total[name] + delta if name in total else delta
    return total


def loaded_delta(folder: Path) -> dict[str, torch.Tensor]:
    """What the adapter in a folder adds to each weight, by PEFT."""
    return exact_sum([folder], (1.0,))


def assert_same_deltas(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for module, delta in ours.items():
        torch.testing.assert_close(delta, expected[module], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["cat", "svd"])
def test_rslora_sources_come_out_at_their_own_scale(name: str, tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed, rslora=True, alpha=3) for seed in (1, 2)]
    model = peft_model(folders)
    rank = 8
    model.base_model.add_weighted_adapter(["a0", "a1"], [1.0, 0.5], "peft", combination_type=name, svd_rank=rank)
    wrong = model.get_submodule(f"base_model.model.model.layers.0.{Q}").scaling["peft"]
    assert wrong == pytest.approx(math.sqrt(rank))  # and its factors are scaled already

    options = {"rank": rank} if name == "svd" else {}
    combine(tmp_path / "out", method(name, **options), folders, (1.0, 0.5))
    assert_same_deltas(loaded_delta(tmp_path / "out"), exact_sum(folders, (1.0, 0.5)))


@pytest.mark.parametrize("name", ["cat", "svd"])
def test_ranks_that_differ_by_module_can_be_loaded_again(name: str, tmp_path: Path) -> None:
    folders = [
        adapter(tmp_path, 1, llama_modules({Q: 2, DOWN: 4})),
        adapter(tmp_path, 2, llama_modules({Q: 8}), alpha_pattern={Q: 16}),
    ]
    options = {"rank": 16} if name == "svd" else {}
    combine(tmp_path / "out", method(name, **options), folders, (1.0, -0.5))
    assert_same_deltas(loaded_delta(tmp_path / "out"), exact_sum(folders, (1.0, -0.5)))
    facts = check_bundle(tmp_path / "out").facts
    assert {(module.name.rpartition(".")[2], module.rank, module.scaling) for module in facts.modules} == {
        ("q_proj", 10, 1.0),
        ("down_proj", 4, 1.0),
    }


def test_linear_of_ranks_that_differ_by_module_can_be_loaded_again(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed, llama_modules({Q: 2, DOWN: 4})) for seed in (1, 2)]
    model = peft_model(folders)
    model.base_model.add_weighted_adapter(["a0", "a1"], [1.0, 0.5], "peft", combination_type="linear")
    model.save_pretrained(tmp_path, selected_adapters=["peft"], save_embedding_layers=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        loaded_delta(tmp_path / "peft")

    ours = combine(tmp_path / "out", method("linear"), folders, (1.0, 0.5))
    assert_same_deltas(loaded_delta(tmp_path / "out"), deltas(ours))


def test_a_single_source_goes_through_its_method(tmp_path: Path) -> None:
    folder = adapter(tmp_path, 1)
    theirs = peft_combine([folder], (1.0,), "ties", density=0.5)
    ours = combine(tmp_path / "out", method("ties", density=0.5), [folder], (1.0,))
    assert all(tensor.count_nonzero() == tensor.numel() for tensor in theirs.values())  # `linear`: nothing pruned
    assert all(tensor.count_nonzero() == tensor.numel() // 2 for tensor in ours.values())


def test_dare_of_density_0_is_refused(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed) for seed in (1, 2)]
    theirs = peft_combine(folders, (1.0, 1.0), "dare_linear", density=0.0)
    assert all(tensor.isnan().all() for tensor in theirs.values())
    with pytest.raises(InvalidCombination, match=r"density to be a number in \(0, 1\], got 0.0"):
        combine(tmp_path / "out", method("dare_linear", density=0.0), folders, (1.0, 1.0))


def test_modules_to_save_are_carried_over_rather_than_replaced_by_the_bases(tmp_path: Path) -> None:
    folder = save_adapter(tiny_model("llama"), tmp_path / "saving", target_modules=[Q], modules_to_save=["lm_head"])
    folders, name = [folder, adapter(tmp_path, 2)], "base_model.model.lm_head"
    trained = load_file(folder / WEIGHTS)[f"{name}.weight"]
    model = peft_model(folders)
    model.base_model.add_weighted_adapter(["a0", "a1"], [1.0, 1.0], "merged", combination_type="cat")
    head = model.get_submodule(name)
    assert torch.equal(head.modules_to_save["a0"].weight, trained)
    assert not torch.equal(trained, head.original_module.weight)
    assert torch.equal(head.modules_to_save["merged"].weight, head.original_module.weight)

    ours = combine(tmp_path / "out", method("cat"), folders, (1.0, 1.0))
    assert torch.equal(ours[f"{name}.weight"], trained)


def test_a_failed_combination_leaves_nothing_behind(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed) for seed in (1, 2)]
    model = peft_model(folders)
    with pytest.raises(ValueError, match="Density should be"):
        model.base_model.add_weighted_adapter(["a0", "a1"], [1.0, 1.0], "ghost", combination_type="ties", density=-1.0)
    assert "ghost" in model.peft_config
    with pytest.raises(InvalidCombination):
        combine(tmp_path / "out", method("ties", density=-1.0), folders, (1.0, 1.0))
    assert not (tmp_path / "out").exists()


def test_peft_ignores_a_name_that_is_taken_and_a_weight_that_is_missing(tmp_path: Path) -> None:
    # Ours has neither: a result is named by its recipe, and a weight belongs to its source.
    folders = [adapter(tmp_path, seed) for seed in (1, 2)]
    model = peft_model(folders)
    model.base_model.add_weighted_adapter(["a0", "a1"], [1.0], "short", combination_type="linear")
    layer = model.get_submodule(f"base_model.model.model.layers.0.{Q}")
    assert torch.equal(layer.lora_A["short"].weight, layer.lora_A["a0"].weight)
    before = layer.lora_A["short"].weight.clone()
    model.base_model.add_weighted_adapter(["a1"], [5.0], "short", combination_type="linear")
    assert torch.equal(layer.lora_A["short"].weight, before)


def test_a_misspelt_method_is_refused_rather_than_a_zero_adapter(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed) for seed in (1, 2)]
    with pytest.raises(InvalidCombination, match=r"expected a method of linear, cat, .*, got 'foo_svd'"):
        combine(tmp_path / "out", method("foo_svd"), folders, (1.0, 1.0))


def test_cat_of_one_source_is_the_source(tmp_path: Path) -> None:
    folder = adapter(tmp_path, 1, alpha=4)
    tensors = combine(tmp_path / "out", method("cat"), [folder], (2.0,))
    assert_same_deltas(deltas(tensors), exact_sum([folder], (2.0,)))
