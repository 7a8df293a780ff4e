from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from lorry.fingerprint import base_facts
from lorry.format.base import BaseModule, ModuleKind
from tests.support.mixtures import mixture
from tests.support.models import FAMILIES, VOCABULARY, config_of, from_config, saved_model, tiny_model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_type_of_a_load_does_not_matter(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = saved_model("llama", tmp_path)

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    assert base_facts(loaded) == base_facts(tiny_model("llama"))


def test_shards_do_not_matter(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path, max_shard_size="50KB")

    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert base_facts(AutoModelForCausalLM.from_pretrained(tmp_path)) == base_facts(model)


def test_names_token_ids_and_cache_settings_do_not_matter() -> None:
    model, renamed = tiny_model("llama"), tiny_model("llama")
    renamed.config.update({"_name_or_path": "other", "eos_token_id": 5, "use_cache": False, "initializer_range": 1.0})

    assert base_facts(renamed) == base_facts(model)


def test_noise_of_a_tenth_of_a_percent_makes_another_base() -> None:
    model, noisy = tiny_model("llama"), tiny_model("llama")
    generator = torch.Generator().manual_seed(1)
    for parameter in noisy.parameters():
        parameter.mul_(1 + 1e-3 * torch.randn(parameter.shape, generator=generator))

    assert base_facts(noisy).base_id != base_facts(model).base_id
    assert base_facts(noisy).architecture_id == base_facts(model).architecture_id


def test_other_weights_of_the_same_shapes_are_another_base() -> None:
    assert base_facts(tiny_model("llama", seed=1)).base_id != base_facts(tiny_model("llama")).base_id


def test_one_changed_norm_weight_is_another_base() -> None:
    model, changed = tiny_model("llama"), tiny_model("llama")
    changed.model.norm.weight[7] += 0.25

    assert base_facts(changed).base_id != base_facts(model).base_id


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": 1e-3},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"num_key_value_heads": 4, "num_attention_heads": 8, "head_dim": 4},
    ],
)
def test_a_configuration_that_changes_the_function_is_another_architecture(change: dict[str, object]) -> None:
    fields = config_of("llama").to_dict() | {"head_dim": None} | change

    changed = base_facts(from_config(LlamaConfig(**fields)))

    assert changed.architecture_id != base_facts(tiny_model("llama")).architecture_id


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_names_every_module_that_an_adapter_may_target(family: str) -> None:
    facts = base_facts(tiny_model(family))
    names = [module.name for module in facts.modules]

    assert names == sorted(names)
    assert facts.vocab_size == VOCABULARY
    assert BaseModule("lm_head", ModuleKind.LINEAR, 32, VOCABULARY) in facts.modules
    assert {ModuleKind.EMBEDDING} < {module.kind for module in facts.modules}


@pytest.mark.parametrize(("family", "sides"), [("mixtral", (48, 32)), ("gpt_oss", (48, 32))])
def test_stacked_experts_are_told_by_their_parameters_and_are_no_part_of_the_identity(
    family: str, sides: tuple[int, int]
) -> None:
    facts = base_facts(mixture(family))
    stacks = [module for module in facts.modules if module.kind is ModuleKind.EXPERTS]

    assert BaseModule("model.layers.1.mlp.experts.down_proj", ModuleKind.EXPERTS, *sides, experts=4) in stacks
    assert BaseModule("model.layers.1.mlp.experts.gate_up_proj", ModuleKind.EXPERTS, 32, 96, experts=4) in stacks
    assert len(stacks) == 4


def test_a_conv1d_is_told_by_its_own_features() -> None:
    table = {module.name: module for module in base_facts(tiny_model("gpt2")).modules}

    assert table["transformer.h.0.attn.c_attn"] == BaseModule(
        "transformer.h.0.attn.c_attn", ModuleKind.CONV1D, in_features=32, out_features=96
    )
