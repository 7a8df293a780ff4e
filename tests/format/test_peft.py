"""What stock PEFT saves passes, and the facts are PEFT's own; ours loads in PEFT."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lorry.errors import UnsupportedAdapter
from lorry.format.bundle import Bundle, check_bundle
from lorry.format.facts import Variant
from tests.support.adapters import write_adapter

pytestmark = [
    # PEFT reads an attribute that this release of transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # Said of every lora_bias on a layer without a bias, which is all of Llama's.
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning"),
    # PEFT 0.21 takes the bias, a vector by nature, for a shard of a matrix.
    pytest.mark.filterwarnings("ignore:Adapter 'default'. .* LoRA tensor.s. have invalid shape:UserWarning"),
]

Q = "model.layers.0.self_attn.q_proj"
# Names that a pattern may go by, from the general to the full path.
PATTERN = {
    "q_proj": 3,
    "model.layers.1.self_attn.v_proj": 6,
    "layers.0.mlp.up_proj": 5,
    "^model.layers.1.mlp.up_proj": 7,
}


@pytest.fixture
def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=32,
        )
    )


def save(model: PreTrainedModel, directory: Path, **fields: Any) -> tuple[peft.PeftModel, Bundle]:
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 8} | fields))
    wrapped.save_pretrained(directory, save_embedding_layers=False)
    return wrapped, check_bundle(directory)


@pytest.mark.parametrize(
    ("fields", "variant"),
    [
        ({}, Variant.LORA),
        ({"use_rslora": True}, Variant.RSLORA),
        ({"use_dora": True}, Variant.DORA),
        ({"use_dora": True, "use_rslora": True}, Variant.DORA),
        ({"lora_bias": True}, Variant.LORA),
        ({"rank_pattern": PATTERN}, Variant.LORA),
        ({"alpha_pattern": PATTERN, "use_rslora": True}, Variant.RSLORA),
        ({"rank_pattern": PATTERN, "alpha_pattern": {"up_proj": 2, "layers.1.mlp.up_proj": 3}}, Variant.LORA),
        ({"target_modules": "all-linear"}, Variant.LORA),
        ({"target_modules": r".*\.(q|v)_proj"}, Variant.LORA),
        ({"target_modules": ["q_proj", "lm_head"]}, Variant.LORA),
        ({"layers_to_transform": [1], "layers_pattern": "layers"}, Variant.LORA),
        ({"exclude_modules": ["up_proj"], "task_type": "CAUSAL_LM", "lora_dropout": 0.1}, Variant.LORA),
        ({"init_lora_weights": "gaussian", "revision": "main"}, Variant.LORA),
        ({"init_lora_weights": "orthogonal"}, Variant.LORA),
    ],
    ids=str,
)
def test_a_saved_adapter_passes_with_the_ranks_and_scalings_that_peft_uses(
    fields: dict[str, Any], variant: Variant, llama: PreTrainedModel, tmp_path: Path
) -> None:
    model, bundle = save(llama, tmp_path, **{"target_modules": ["q_proj", "v_proj", "up_proj"]} | fields)
    # PEFT sorts the keys of a pattern when it saves; what counts is what it makes of the file.
    model = peft.PeftModel.from_pretrained(model.unload(), str(tmp_path))

    theirs = {
        name.removeprefix("base_model.model."): (
            layer.r["default"],
            layer.scaling["default"],
            layer.in_features,
            layer.out_features,
        )
        for name, layer in model.named_modules()
        if isinstance(layer, peft.tuners.lora.LoraLayer)
    }
    ours = {
        module.name: (module.rank, module.scaling, module.in_features, module.out_features)
        for module in bundle.facts.modules
    }
    assert ours == theirs
    assert bundle.facts.variant is variant


def test_an_adapter_of_conv1d_layers_has_the_same_orientation(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16))

    _, bundle = save(model, tmp_path, target_modules=["c_attn"], fan_in_fan_out=True)

    (module,) = bundle.facts.modules
    assert (module.in_features, module.out_features) == (16, 48)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"target_modules": ["embed_tokens"], "use_dora": True}, "DoRA on an embedding"),
        ({"modules_to_save": ["lm_head"], "alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
    ],
    ids=str,
)
def test_a_sound_adapter_of_a_kind_that_is_not_served_is_refused_by_name(
    fields: dict[str, Any], named: str, llama: PreTrainedModel, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedAdapter, match=named):
        save(llama, tmp_path, **{"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | fields)


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
def test_a_converted_pissa_adapter_passes(llama: PreTrainedModel, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights="pissa")
    model = peft.get_peft_model(llama, config)
    config.init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    config.init_lora_weights = "pissa"

    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))

    assert check_bundle(tmp_path / "converted").facts.rank == 8


@pytest.mark.parametrize(
    "options", [{}, {"dora": True}, {"lora_bias": True}, {"rslora": True, "dtype": "BF16"}], ids=str
)
def test_the_adapters_that_the_tests_build_load_in_peft(
    options: dict[str, Any], llama: PreTrainedModel, tmp_path: Path
) -> None:
    shapes = {Q: (16, 16, 2), "model.layers.1.mlp.up_proj": (16, 24, 3)}
    write_adapter(tmp_path, shapes, **options)

    model = peft.PeftModel.from_pretrained(llama, str(tmp_path))

    layer = model.base_model.model.get_submodule(Q)
    facts = check_bundle(tmp_path).facts
    assert layer.scaling["default"] == next(module.scaling for module in facts.modules if module.name == Q)
    assert layer.lora_B["default"].weight.abs().sum() > 0
