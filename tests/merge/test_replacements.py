"""Sources that are active from a place on, or that put something in the place of the base's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from compute_worker.combination import CombineSource
from compute_worker.merge import TorchCombiner, check_method
from lorry.errors import UnsupportedCombination
from lorry.format.bundle import check_bundle
from tests.merge.support import DOWN, Q, adapter, base_weight, combine, llama_modules, method, source
from tests.support.adapters import CONFIG, WEIGHTS
from tests.support.kinds import resized_model
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import prompt

pytestmark = [QUIET, pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning")]
TOKENS = [*prompt(11), 5, 101]
SUM = method("sum")
# What replaces something -> its configuration, and the family that it is for.
REPLACING: dict[str, tuple[str, dict[str, Any]]] = {
    "head": ("llama", {"modules_to_save": ["lm_head"]}),
    "embedding and head": ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "norms": ("llama", {"modules_to_save": ["input_layernorm"]}),
    "a linear": ("llama", {"modules_to_save": ["o_proj"]}),
    "tokens": ("llama", {"trainable_token_indices": [5, 101]}),
    "biases": ("opt", {"bias": "all"}),
}
HEAD = "base_model.model.lm_head.weight"


def made(folder: Path, seed: int, family: str = "llama", targets: Sequence[str] = ("q_proj",), **config: Any) -> Path:
    options = {"r": 4, "lora_alpha": 6, "target_modules": list(targets), **config}
    return save_adapter(tiny_model(family), folder / f"{family}-{seed}", seed=seed, **options)


def merged(family: str, folder: Path) -> PreTrainedModel:
    """The base with everything that an adapter does to it."""
    model: PreTrainedModel = PeftModel.from_pretrained(tiny_model(family), folder).merge_and_unload()
    return model


@pytest.mark.parametrize("kind", REPLACING)
def test_what_one_source_alone_replaces_is_the_results(kind: str, tmp_path: Path) -> None:
    family, config = REPLACING[kind]
    owner, plain = made(tmp_path, 1, family, **config), made(tmp_path, 2, family, ["q_proj", "v_proj"])
    combine(tmp_path / "out", SUM, [owner, plain], (1.0, -0.5))
    expected = peft_logits(merged(family, owner), [plain], TOKENS, [-0.5])
    without = peft_logits(tiny_model(family), [plain], TOKENS, [-0.5])
    assert (peft_logits(tiny_model(family), [tmp_path / "out"], TOKENS) - expected).abs().max() < 1e-4
    assert (without - expected).abs().max() > 0.05


def test_a_vocabulary_of_its_own_is_the_results(tmp_path: Path) -> None:
    base = resized_model("llama", 140)
    options = {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    owner, plain = save_adapter(base, tmp_path / "owner", **options), made(tmp_path, 2)
    combine(tmp_path / "out", SUM, [owner, plain], (1.0, -0.5))
    whole = PeftModel.from_pretrained(resized_model("llama", 140), owner).merge_and_unload()
    tokens = [*TOKENS, 139]
    expected = peft_logits(whole, [plain], tokens, [-0.5])
    assert expected.shape[-1] == 140
    assert (peft_logits(base, [tmp_path / "out"], tokens) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", REPLACING)
def test_it_keeps_its_bytes_and_its_fields(kind: str, tmp_path: Path) -> None:
    family, config = REPLACING[kind]
    owner = made(tmp_path, 1, family, **config)
    ours = combine(tmp_path / "out", method("linear"), [owner], (0.5,))
    own = load_file(owner / WEIGHTS)
    assert ours.keys() == own.keys()
    assert all(tensor.equal(own[name]) for name, tensor in ours.items() if "lora_" not in name)
    facts, before = source(tmp_path / "out").facts, source(owner).facts
    assert (facts.saved, facts.tokens, facts.biases) == (before.saved, before.tokens, before.biases)


def test_what_all_sources_replace_alike_is_the_results_whatever_their_weights(tmp_path: Path) -> None:
    folders = [made(tmp_path, seed, modules_to_save=["lm_head"]) for seed in (1, 2)]
    take_over(folders[1], folders[0], HEAD)
    ours = combine(tmp_path / "out", SUM, folders, (0.5, -2.0))
    assert ours[HEAD].equal(load_file(folders[0] / WEIGHTS)[HEAD])
    headed = tiny_model("llama")
    headed.lm_head.weight.copy_(ours[HEAD])
    plain = [bare(folder) for folder in folders]
    expected = peft_logits(headed, plain, TOKENS, [0.5, -2.0])
    assert (peft_logits(tiny_model("llama"), [tmp_path / "out"], TOKENS) - expected).abs().max() < 1e-4


def take_over(into: Path, origin: Path, name: str) -> None:
    """Write a tensor of one adapter into another."""
    tensors = load_file(into / WEIGHTS) | {name: load_file(origin / WEIGHTS)[name]}
    save_file(tensors, into / WEIGHTS, metadata={"format": "pt"})


def bare(folder: Path) -> Path:
    """The adapter without its head."""
    stripped = folder.parent / f"{folder.name}-bare"
    stripped.mkdir()
    tensors = load_file(folder / WEIGHTS)
    del tensors[HEAD]
    save_file(tensors, stripped / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text()) | {"modules_to_save": None}
    (stripped / CONFIG).write_text(json.dumps(config))
    return stripped


def refusal(tmp_path: Path, folders: Sequence[Path], weights: Sequence[float]) -> str:
    """Asserts that the sum is refused and nothing written; answers the message, sources by their place."""
    sources = [source(folder, weight) for folder, weight in zip(folders, weights, strict=True)]
    with pytest.raises(UnsupportedCombination) as caught:
        TorchCombiner(base_weight).combine(SUM, sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    message = caught.value.message
    for place, one in enumerate(sources):
        message = message.replace(one.digest, f"#{place}")
    return message


def test_what_sources_replace_by_different_values_is_no_sum(tmp_path: Path) -> None:
    folders = [made(tmp_path, seed, modules_to_save=["lm_head"]) for seed in (1, 2)]
    message = refusal(tmp_path, folders, (1.0, 1.0))
    assert message.startswith("lm_head: the module is another in #0 than in #1: what replaces the base's own is no sum")


def test_rows_of_other_tokens_are_no_sum(tmp_path: Path) -> None:
    folders = [made(tmp_path, seed, trainable_token_indices=[5, 100 + seed]) for seed in (1, 2)]
    message = refusal(tmp_path, folders, (1.0, 1.0))
    assert message.startswith("model.embed_tokens: the set of trained tokens is another in #0 than in #1")


def test_a_replacement_of_some_of_the_sources_is_refused(tmp_path: Path) -> None:
    folders = [*(made(tmp_path, seed, modules_to_save=["lm_head"]) for seed in (1, 2)), adapter(tmp_path, 3)]
    take_over(folders[1], folders[0], HEAD)
    message = refusal(tmp_path, folders, (1.0, 1.0, 1.0))
    assert message.startswith("lm_head: the module comes from #0 and #1, and not from all of the 3 sources")


@pytest.mark.parametrize("weight", [0.5, -1.0, 0.0])
def test_a_part_of_a_replacement_is_refused(weight: float, tmp_path: Path) -> None:
    folders = [made(tmp_path, 1, modules_to_save=["lm_head"]), adapter(tmp_path, 2)]
    message = refusal(tmp_path, folders, (weight, 1.0))
    assert message == (
        f"lm_head: the module comes from #0 alone, and a part of it has no meaning: expected weight 1, got {weight:g}"
    )


@pytest.mark.parametrize(
    ("config", "target", "message"),
    [
        ({"modules_to_save": ["lm_head"]}, "lm_head", "lm_head: the module comes from #0, and #1 adapts the base's"),
        (
            {"trainable_token_indices": [5]},
            "embed_tokens",
            "model.embed_tokens: the set of trained tokens comes from #0, and #1 adapts the base's",
        ),
    ],
)
def test_a_module_that_another_source_adapts_cannot_be_replaced(
    config: dict[str, Any], target: str, message: str, tmp_path: Path
) -> None:
    folders = [made(tmp_path, 1, **config), made(tmp_path, 2, targets=["q_proj", target])]
    assert refusal(tmp_path, folders, (1.0, 1.0)).startswith(message)


def test_a_trained_bias_goes_with_anybodys_delta_under_the_name_that_it_then_has(tmp_path: Path) -> None:
    owner = made(tmp_path, 1, "opt", ["q_proj"], bias="all")
    plain = made(tmp_path, 2, "opt", ["fc1"])
    ours = combine(tmp_path / "out", SUM, [owner, plain], (1.0, 1.0))
    assert "base_model.model.model.decoder.layers.0.fc1.bias" in load_file(owner / WEIGHTS)
    assert "base_model.model.model.decoder.layers.0.fc1.base_layer.bias" in ours
    expected = peft_logits(merged("opt", owner), [plain], TOKENS)
    assert (peft_logits(tiny_model("opt"), [tmp_path / "out"], TOKENS) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("second", [None, [17, 101]])
def test_sources_that_are_active_from_different_places_are_refused(second: list[int] | None, tmp_path: Path) -> None:
    folders = [made(tmp_path, 1, alora_invocation_tokens=[5, 101]), made(tmp_path, 2, alora_invocation_tokens=second)]
    said = second or "the beginning"
    assert refusal(tmp_path, folders, (1.0, 1.0)) == (
        f"#0 is active from [5, 101] on and #1 from {said} on (alora_invocation_tokens): "
        "expected one place for all sources"
    )


def test_a_sum_of_activated_adapters_is_active_from_their_place_on(tmp_path: Path) -> None:
    folders = [made(tmp_path, seed, alora_invocation_tokens=[5, 101]) for seed in (1, 2)]
    combine(tmp_path / "out", SUM, folders, (1.0, -0.5))
    tokens = [*prompt(9), 5, 101, *prompt(4, 1)]
    expected = peft_logits(tiny_model("llama"), folders, tokens, [1.0, -0.5])
    got = peft_logits(tiny_model("llama"), [tmp_path / "out"], tokens)
    base = peft_logits(tiny_model("llama"), [], tokens)
    assert (got - expected).abs().max() < 1e-4
    assert got[:9].equal(base[:9])
    assert (got[9:] - base[9:]).abs().amax(-1).min() > 0.01


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_of_a_tied_base_merges_as_it_is_served(tied: bool, tmp_path: Path) -> None:  # noqa: FBT001
    owner = made(tmp_path, 1, "qwen3", ["embed_tokens", "q_proj"], ensure_weight_tying=tied)
    plain = made(tmp_path, 2, "qwen3", ["q_proj"])
    combine(tmp_path / "out", SUM, [owner, plain], (0.5, -2.0))
    expected = peft_logits(tiny_model("qwen3"), [owner, plain], TOKENS, [0.5, -2.0])
    assert (peft_logits(tiny_model("qwen3"), [tmp_path / "out"], TOKENS) - expected).abs().max() < 1e-4
    assert ("lm_head" in {module.name for module in source(tmp_path / "out").facts.modules}) is tied


def test_an_embedding_beside_lora_bias_has_no_name_in_peft(tmp_path: Path) -> None:
    folders = [made(tmp_path, 1, targets=["embed_tokens"]), adapter(tmp_path, 2, llama_modules(4, Q), lora_bias=True)]
    assert refusal(tmp_path, folders, (1.0, 1.0)) == (
        "model.embed_tokens: #0 adapts an embedding and #1 has lora_bias, which embeddings cannot have: "
        "the result would have both"
    )


def test_every_check_of_facts_comes_before_any_byte_is_read(tmp_path: Path) -> None:
    folders = [made(tmp_path, 1, modules_to_save=["lm_head"]), adapter(tmp_path, 2, llama_modules(4, DOWN))]
    gone = [replace(source(folder, 0.5), weights=tmp_path / "gone") for folder in folders]
    sources: list[CombineSource] = gone
    with pytest.raises(UnsupportedCombination, match=r"expected weight 1, got 0\.5"):
        check_method(SUM, sources)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bases_own_copy_is_left_out_where_it_is_one(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = made(tmp_path, 1, targets=["embed_tokens"])
    name = "base_model.model.model.embed_tokens"
    copied = tiny_model("llama").model.embed_tokens.weight.to(dtype)
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, f"{name}.base_layer.weight": copied}, folder / WEIGHTS, metadata={"format": "pt"})
    ours = combine(tmp_path / "out", SUM, [folder], (1.0,))
    assert ours.keys() == {f"{name}.lora_embedding_A", f"{name}.lora_embedding_B"}
    assert check_bundle(tmp_path / "out").facts.copies == ()

    trained = copied.clone()
    trained[7] *= 2
    save_file({**tensors, f"{name}.base_layer.weight": trained}, folder / WEIGHTS, metadata={"format": "pt"})
    assert refusal(tmp_path / "other", [folder], (1.0,)) == (
        "model.embed_tokens: #0 has another weight for it than the base, which a sum would lose"
    )
