from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    BloomConfig,
    FalconConfig,
    GPTJConfig,
    GPTNeoConfig,
    Lfm2Config,
    LlamaConfig,
    MptConfig,
    Phi3Config,
    PretrainedConfig,
    T5Config,
)

from compute_worker.engine.loading import has_bfloat16, load_base, refuse_unhookable, refuse_unsupported, stored_as
from lorry.errors import InvalidInput, UnsupportedModel
from tests.support.models import from_config, saved_model, tiny_model

_SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_comes_in_the_type_that_it_computes_in_and_ready_to_serve(tmp_path: Path, dtype: str) -> None:
    model = load_base(str(saved_model("llama", tmp_path)), "cpu", dtype)

    slow = dtype == "bfloat16" and not has_bfloat16()
    assert str(model.dtype) == ("torch.float32" if slow else f"torch.{dtype}")
    assert stored_as(dtype, "cpu") == getattr(torch, dtype)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("claimed", "wide", "pairs", "expected"),
    [
        pytest.param(False, False, False, torch.float32, id="AVX2"),
        pytest.param(True, True, False, torch.float32, id="AVX-512, where oneDNN widens"),
        pytest.param(True, True, True, torch.bfloat16, id="AVX512-BF16"),
        pytest.param(True, False, False, torch.bfloat16, id="another architecture that has it"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, expected: torch.dtype, *, claimed: bool, wide: bool, pairs: bool
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: claimed)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: wide)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: pairs)

    assert stored_as("auto", "cpu") == expected


@pytest.mark.parametrize("family", ["llama", "qwen3"])  # untied and tied
def test_no_weight_stays_a_view_of_the_file(tmp_path: Path, family: str) -> None:
    model = load_base(str(saved_model(family, tmp_path)), "cpu", "float32")

    (tmp_path / "model.safetensors").write_bytes(b"")  # a mapped page beyond the end would be a SIGBUS

    for name, parameter in tiny_model(family).named_parameters():
        assert model.get_parameter(name).equal(parameter)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = load_base(str(saved_model("qwen3", tmp_path)), "cpu", "float32")

    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
        FalconConfig(**_SMALL),
        GPTJConfig(vocab_size=97, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        GPTNeoConfig(vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]]),
        MptConfig(vocab_size=97, d_model=32, n_layers=2, n_heads=4),
        Lfm2Config(**_SMALL, num_key_value_heads=2, intermediate_size=48, layer_types=["conv", "full_attention"]),
    ],
    ids=lambda config: config.model_type,
)
def test_architectures_that_cannot_be_hooked_are_refused_by_name(config: PretrainedConfig) -> None:
    with pytest.raises(UnsupportedModel, match=config.model_type):
        refuse_unhookable(from_config(config))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LlamaConfig(**_SMALL, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "dynamic"),
        (
            Phi3Config(
                **_SMALL,
                pad_token_id=0,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 8,
                },
            ),
            "longrope",
        ),
        (T5Config(), "decoder-only"),
    ],
)
def test_what_the_configuration_gives_away_is_refused_before_weights_are_read(
    config: PretrainedConfig, reason: str
) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        refuse_unsupported(config)


def test_quantised_weights_are_refused() -> None:
    config = LlamaConfig(**_SMALL)
    config.quantization_config = {"quant_method": "gptq"}

    with pytest.raises(UnsupportedModel, match="quantised"):
        refuse_unsupported(config)


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [("cpu", "int8", "expected a dtype"), ("warp", "float32", "'warp' cannot be used")],
)
def test_unknown_types_and_devices_are_typed_errors(tmp_path: Path, device: str, dtype: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        load_base(str(saved_model("llama", tmp_path)), device, dtype)


def test_a_folder_without_a_model_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a Hugging Face folder"):
        load_base(str(tmp_path), "cpu", "float32")


def test_a_folder_without_safetensors_is_a_typed_error(tmp_path: Path) -> None:
    saved_model("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()

    with pytest.raises(InvalidInput, match="expected safetensors weights"):
        load_base(str(tmp_path), "cpu", "float32")
