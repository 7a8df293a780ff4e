"""Bases with quantised weights, as the engine and the fingerprint take them."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PretrainedConfig

from compute_worker.engine.admission import GENERAL
from compute_worker.engine.loading import load_base, refuse_unsupported
from lorry import checkpoint
from lorry.errors import MissingExtra, UnsupportedModel
from lorry.fingerprint import base_facts
from tests.support.models import config_of, saved_model, tiny_model
from tests.support.quantised import needs_torchao, saved_int8
from tests.support.steps import Request, engine_of, prompt, run_all

needs_torchao()


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama in int8."""
    root = tmp_path_factory.mktemp("int8")
    return saved_int8(saved_model("llama", root / "plain"), root / "int8")


def with_torchao(kind: str, **fields: object) -> PretrainedConfig:
    """A configuration as a folder of such weights has it."""
    config = config_of("llama")
    config.quantization_config = {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, **fields}}}
    return config


def test_a_quantised_base_is_another_base_of_the_same_architecture(int8: Path) -> None:
    plain, quantised = base_facts(tiny_model("llama")), base_facts(load_base(str(int8), "cpu", "float32"))

    assert quantised.quantization == "int8-per-row"
    assert quantised.base_id != plain.base_id
    assert (quantised.architecture_id, quantised.modules) == (plain.architecture_id, plain.modules)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_type_of_a_load_does_not_matter_to_its_fingerprint(int8: Path, dtype: torch.dtype) -> None:
    loaded = checkpoint.load(str(int8), dtype=dtype)

    assert base_facts(loaded) == base_facts(load_base(str(int8), "cpu", "float32"))


def test_its_fingerprint_is_that_of_the_values_that_it_stands_for(int8: Path, tmp_path: Path) -> None:
    quantised = load_base(str(int8), "cpu", "float32")
    plain = tiny_model("llama")
    for name, parameter in quantised.named_parameters():
        plain.get_parameter(name).copy_(checkpoint.dense(parameter))
    plain.save_pretrained(tmp_path)

    assert base_facts(load_base(str(tmp_path), "cpu", "float32")).base_id == base_facts(quantised).base_id


@pytest.mark.parametrize(("grains", "name"), [("PerTensor", "int8-per-tensor"), ("PerGroup", "int8-per-group-16")])
def test_other_grains_are_told_apart_and_served(tmp_path: Path, grains: str, name: str) -> None:
    from torchao import quantization

    grain = getattr(quantization, grains)(*([16] if grains == "PerGroup" else []))
    folder = saved_int8(saved_model("llama", tmp_path / "plain"), tmp_path / "int8", grain)
    alone = load_base(str(folder), "cpu", "float32")
    engine = engine_of(load_base(str(folder), "cpu", "float32"))

    assert engine.base.quantization == name
    (got,) = run_all(engine, [Request(prompt(9), 0)])
    assert torch.allclose(got, alone(torch.tensor([prompt(9)])).logits[0, -1], atol=1e-4)


def test_a_tied_head_stays_tied_and_plain(tmp_path: Path) -> None:
    model = load_base(str(saved_int8(saved_model("qwen3", tmp_path / "plain"), tmp_path / "int8")), "cpu", "float32")

    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert {checkpoint.packed(parameter) for parameter in model.model.layers[0].mlp.parameters()} == {True}
    assert engine_of(model).base.quantization == "int8-per-row"


def test_the_general_executor_serves_it_and_the_log_says_why(int8: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "compute_worker")

    engine = engine_of(load_base(str(int8), "cpu", "float32"))

    assert engine.executor == "transformers"
    assert "executor transformers: quantised weights have no native kernels" in caplog.text


def test_its_weights_count_as_the_bytes_that_they_take(int8: Path) -> None:
    plain = engine_of(tiny_model("llama"), executor=GENERAL).limits
    quantised = engine_of(load_base(str(int8), "cpu", "float32")).limits
    linears = 2 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 48)
    rows = 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32)

    # Four bytes a number become one; each row gets a scale of four bytes and a zero point of one.
    assert quantised.base_bytes == plain.base_bytes - 3 * linears + 5 * rows


def test_no_part_of_a_weight_stays_a_view_of_the_file(int8: Path, tmp_path: Path) -> None:
    copied = tmp_path / "int8"
    copied.mkdir()
    for file in int8.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    expected = dict(load_base(str(int8), "cpu", "float32").named_parameters())
    model = load_base(str(copied), "cpu", "float32")

    (copied / "model.safetensors").write_bytes(b"")  # a mapped page beyond the end would be a SIGBUS

    for name, parameter in model.named_parameters():
        for mine, other in zip(checkpoint.parts(parameter), checkpoint.parts(expected[name]), strict=True):
            assert mine.equal(other)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (with_torchao("Int8DynamicActivationInt8WeightConfig"), "torchao-Int8DynamicActivationInt8WeightConfig"),
        (with_torchao("Int4WeightOnlyConfig"), "torchao-Int4WeightOnlyConfig"),
    ],
)
def test_other_quantised_weights_are_refused_by_name(config: PretrainedConfig, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"got weights quantised as {reason}; save the model dequantised"):
        refuse_unsupported(config)


def test_a_quantised_embedding_is_refused(tmp_path: Path) -> None:
    folder = saved_int8(saved_model("llama", tmp_path / "plain"), tmp_path / "int8", embedding=True)

    with pytest.raises(UnsupportedModel, match="a quantised embedding would be unpacked whole in every step"):
        load_base(str(folder), "cpu", "float32")


def test_without_torchao_the_extra_is_named(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AutoConfig.from_pretrained(int8)  # what is imported by now stays
    monkeypatch.setitem(sys.modules, "torchao.core.config", None)

    with pytest.raises(MissingExtra, match=r"lorry\[quantized\]"):
        load_base(str(int8), "cpu", "float32")
