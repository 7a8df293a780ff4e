"""Which executor serves a model, and that the fast one is taken at nobody's word."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import GraniteConfig, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config, SmolLM3Config

from compute_worker.contract import ActiveAdapter, Sampling
from compute_worker.engine.admission import GENERAL
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.native import NativeKernels, library
from lorry.errors import Internal
from tests.support.models import config_of, from_config, tiny_model
from tests.support.peft_adapters import QUIET, save_adapter
from tests.support.steps import Request, engine_of, generate, install, prompt, run_all

pytestmark = [
    QUIET,
    # On purpose: a bias of the adapter's on layers that have none.
    pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed but the targeted layer"),
    pytest.mark.skipif(library() is None, reason="no native kernels for this CPU: make setup builds them"),
]
_SIZES = {
    name: getattr(config_of("llama"), name)
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
} | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [
        config_of("llama"),
        config_of("mistral"),
        config_of("qwen3"),
        Qwen2Config(**_SIZES),
        SmolLM3Config(**_SIZES, no_rope_layers=[1, 0]),
        LlamaConfig(**_SIZES, attention_bias=True, mlp_bias=True),
    ],
    ids=lambda config: config.model_type,
)
def test_models_made_of_known_parts_are_served_fast(config: PretrainedConfig, dtype: torch.dtype) -> None:
    assert engine_of(from_config(config).to(dtype)).executor.startswith("native-")


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "opt"])
def test_other_models_are_served_by_their_own_modules(family: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert engine_of(tiny_model(family)).executor == GENERAL

    assert "executor transformers: " in caplog.text


def test_the_same_parts_put_together_otherwise_are_found(caplog: pytest.LogCaptureFixture) -> None:
    """Granite has llama's parts under llama's names, and multiplies between them."""
    config = GraniteConfig(**_SIZES, residual_multiplier=0.5, logits_scaling=2.0)

    with caplog.at_level(logging.INFO):
        assert engine_of(from_config(config)).executor == GENERAL

    assert "granite: a layer's sum is another than in a llama's layers" in caplog.text


def no_rotation(model: PreTrainedModel) -> None:
    model.model.layers[0].self_attn.use_rope = False


def another_norm(model: PreTrainedModel) -> None:
    norm = model.model.norm
    plain = norm.forward
    norm.forward = lambda x: plain(x) + 1


def another_activation(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.act_fn = nn.GELU()


@pytest.mark.parametrize("change", [no_rotation, another_norm, another_activation])
def test_a_part_that_is_not_what_it_seems_is_found(change: Callable[[PreTrainedModel], None]) -> None:
    model = tiny_model("llama")
    change(model)

    assert engine_of(model).executor == GENERAL


def test_kernels_that_compute_something_else_are_not_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = NativeKernels.pack
    monkeypatch.setattr(NativeKernels, "pack", lambda self, weight, dtype: pack(self, 1.01 * weight, dtype))

    assert engine_of(tiny_model("llama")).executor == GENERAL


def test_the_general_one_can_be_asked_for() -> None:
    assert engine_of(tiny_model("llama"), executor=GENERAL).executor == GENERAL


def test_the_weights_are_kept_once_and_can_be_read_on() -> None:
    model = tiny_model("qwen3")
    expected = {name: module.weight.clone() for name, module in model.named_modules() if type(module) is nn.Linear}

    engine = engine_of(model)

    assert engine.executor.startswith("native-")
    for name, weight in expected.items():
        assert torch.equal(torch.from_numpy(engine.weight(name)), weight)
    assert not any(model.get_submodule(name).weight.numel() for name in expected)


def test_a_table_that_the_head_shares_is_kept_once_and_can_be_read_on() -> None:
    model = tiny_model("qwen3")
    expected = model.get_input_embeddings().weight.clone()
    whole = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))

    engine = engine_of(model)

    assert model.get_input_embeddings().weight.numel() == 0
    assert torch.equal(torch.from_numpy(engine.weight("model.embed_tokens")), expected.T)
    assert torch.equal(model.get_input_embeddings()(torch.tensor([[3, 1]])), expected[[3, 1]][None])
    assert engine.limits.base_bytes <= whole


def test_a_table_that_is_no_copy_of_the_head_is_kept() -> None:
    """The head's numbers are rounded to what is stored, what is looked up is not."""
    untied, rounded = tiny_model("llama"), tiny_model("qwen3")
    expected = rounded.get_input_embeddings().weight.clone()

    engine_of(untied)
    TransformersEngine(rounded, Budgets(1 << 20, 1 << 20), stored=torch.bfloat16)

    assert untied.get_input_embeddings().weight.numel() == expected.numel()
    assert torch.equal(rounded.get_input_embeddings().weight, expected)


def test_rounding_what_is_stored_stays_nearer_to_float32_than_computing_in_bfloat16(tmp_path: Path) -> None:
    folder = save_adapter(tiny_model("llama"), tmp_path, r=4, target_modules="all-linear")
    logits = []
    for model, stored in (
        (tiny_model("llama"), torch.float32),
        (tiny_model("llama"), torch.bfloat16),
        (tiny_model("llama").to(torch.bfloat16), torch.bfloat16),
    ):
        executor = "auto" if model.dtype == torch.float32 else GENERAL
        engine = TransformersEngine(model, Budgets(1 << 20, 1 << 20), executor, stored)
        assert engine.dtype == str(stored).removeprefix("torch.")
        requests = [Request(prompt(20), 0, (install(engine, folder, 5),)), Request(prompt(9), 1)]
        logits.append(torch.stack(run_all(engine, requests)).float())

    exact, rounded, narrow = logits
    assert 0 < (rounded - exact).norm() < (narrow - exact).norm()


def test_nobody_is_left_in_the_pool_by_the_rehearsal() -> None:
    engine = engine_of(tiny_model("llama"))

    with pytest.raises(Internal, match="no adapter lies at pool row 0"):
        run_all(engine, [Request(prompt(5), 0, (ActiveAdapter(0, 3, 1.0),))])


def test_both_give_the_same_logits_and_tokens(tmp_path: Path) -> None:
    """Greedy and drawn rows, with and without logprobs, under a LoRA, a DoRA and a weighted one, chunks beside them."""
    folders = [
        save_adapter(tiny_model("qwen3"), tmp_path / str(rank), seed=rank, r=rank, target_modules="all-linear", **more)
        for rank, more in ((1, {}), (3, {"use_dora": True}), (5, {"lora_bias": True}))
    ]
    results: list[tuple[list[Tensor], list[list[int]]]] = []
    for executor in ("auto", GENERAL):
        engine = engine_of(tiny_model("qwen3"), executor=executor)
        active = [install(engine, folder, 6 * place) for place, folder in enumerate(folders)]
        samplings = (Sampling(), Sampling(temperature=0.8, top_k=20, seed=3), Sampling(logprobs=2))
        uses = ((), (active[0],), (active[1],), (replace(active[0], weight=-0.5), replace(active[2], weight=0.25)))
        requests = [Request(prompt(4 + 9 * seat, seat), seat, uses[seat % 4], samplings[seat % 3]) for seat in range(5)]
        results.append((run_all(engine, requests), generate(engine, requests, 12)))

    (logits, tokens), (expected, expected_tokens) = results
    for got, want in zip(logits, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert tokens == expected_tokens
