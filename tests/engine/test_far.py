"""What shows in no short prompt: windows and chunks of masks, positions far into a text, other layers in bfloat16."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from transformers import (
    AfmoeConfig,
    HeliumConfig,
    LlamaConfig,
    Ministral3Config,
    PhimoeConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
)
from transformers.models.llama4 import Llama4TextConfig

from compute_worker.contract import Sampling, StepRow
from compute_worker.engine.admission import GENERAL
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.native import library
from lorry.errors import UnsupportedModel
from tests.support.models import from_config, tiny_model
from tests.support.steps import engine_of

Change: TypeAlias = Callable[[Any], object]
# Beyond all that the check at start computes.
_WINDOW = 48
_SIZES = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
# Their masks hide keys, and their attention is not told.
_SILENT = [
    PhimoeConfig(**_SIZES, num_local_experts=4, sliding_window=_WINDOW),
    Qwen2MoeConfig(
        **_SIZES,
        **_EXPERTS,
        num_experts=4,
        shared_expert_intermediate_size=40,
        use_sliding_window=True,
        sliding_window=_WINDOW,
        max_window_layers=2,
    ),
    Llama4TextConfig(
        **_SIZES,
        intermediate_size_mlp=48,
        head_dim=8,
        num_local_experts=4,
        attention_chunk_size=_WINDOW,
        no_rope_layers=[1, 1],
    ),
]
_SCALED = Ministral3Config(
    **_SIZES,
    head_dim=8,
    rope_parameters={
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "llama_4_scaling_beta": 0.1,
    },
)
needs_kernels = pytest.mark.skipif(library() is None, reason="no native kernels for this CPU: make setup builds them")


def budgets(context: int) -> Budgets:
    return Budgets(pool_bytes=1 << 20, kv_bytes=1 << 20, max_context=context)


def error_of(config: PretrainedConfig, tokens: int, context: int = 0) -> float:
    """The largest of all tokens' logits, relative to their norm, to transformers' own."""
    model = from_config(copy.deepcopy(config))
    ids = [(7919 * index + 3) % config.vocab_size for index in range(tokens)]
    with torch.no_grad():
        expected = copy.deepcopy(model)(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    engine = TransformersEngine(model, budgets(context))
    blocks = tuple(range(-(-tokens // engine.limits.block_tokens)))
    _, logits = engine.logits([StepRow(ids, 0, blocks, (), Sampling(), ids, 0, targets=ids)])
    return float(((logits - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("config", _SILENT, ids=lambda config: config.model_type)
def test_a_window_of_masks_alone_is_found_however_short_the_check_and_served_within(config: PretrainedConfig) -> None:
    with pytest.raises(UnsupportedModel, match=f"it can be served with a context of up to {_WINDOW} tokens, got 128"):
        TransformersEngine(from_config(copy.deepcopy(config)), budgets(0))

    assert error_of(config, _WINDOW, context=_WINDOW) < 1e-5


def test_a_window_that_attention_is_told_of_is_served() -> None:
    assert engine_of(tiny_model("mistral")).limits.max_context == 128
    assert engine_of(tiny_model("gemma2")).limits.max_context == 128


def test_masks_that_a_model_makes_of_its_own_are_refused() -> None:
    model = tiny_model("llama")
    plain = model.model.layers[0].self_attn.forward
    model.model.layers[0].self_attn.forward = lambda attention_mask, **named: plain(
        attention_mask=None if attention_mask is None else attention_mask + 0, **named
    )

    with pytest.raises(UnsupportedModel, match="expected a mask of transformers' own"):
        engine_of(model)


def test_tokens_that_a_layer_counts_by_itself_are_found_far_into_a_text() -> None:
    """Llama 4's temperature is that of the token's place in what is computed now."""
    sizes: dict[str, Any] = {"intermediate_size_mlp": 48, "head_dim": 8, "num_local_experts": 4}
    config = Llama4TextConfig(**_SIZES, **sizes, attention_chunk_size=128, no_rope_layers=[1, 0], floor_scale=64)

    with pytest.raises(UnsupportedModel, match="layer 1 places token 124 of a text by how many tokens"):
        TransformersEngine(from_config(config), budgets(0))

    assert error_of(config, 60, context=60) < 1e-5


@pytest.mark.parametrize("config", [_SCALED, AfmoeConfig(**_SIZES, **_EXPERTS, head_dim=8, num_experts=4)])
def test_logits_far_into_a_text_are_transformers(config: PretrainedConfig) -> None:
    assert error_of(config, 120) < 1e-5


@needs_kernels
def test_a_scale_that_begins_far_into_a_text_keeps_the_native_kernels_away_where_it_is_reached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert TransformersEngine(from_config(copy.deepcopy(_SCALED)), budgets(0)).executor == GENERAL

    assert "ministral3: queries" in caplog.text
    assert TransformersEngine(from_config(copy.deepcopy(_SCALED)), budgets(32)).executor.startswith("native-")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_that_are_turned_pair_by_pair_keep_them_away_however_little_that_shows(dtype: torch.dtype) -> None:
    model = from_config(HeliumConfig(**_SIZES, head_dim=8))
    for parameter in model.parameters():  # attention is all but even, and says little
        parameter.data *= 0.3 if parameter.dim() > 1 else 1

    assert engine_of(model.to(dtype)).executor == GENERAL


def _changed(module: Any, given: float, came: float) -> None:
    """What it is given and what it gives, times so much."""
    plain = module.forward

    def forward(x: torch.Tensor | None = None, hidden_states: torch.Tensor | None = None, **named: Any) -> Any:
        output = plain((hidden_states if x is None else x) * given, **named)
        return (output[0] * came, *output[1:]) if isinstance(output, tuple) else output * came

    module.forward = forward


def _softer(model: Any) -> None:
    plain = model.forward

    def forward(**named: Any) -> Any:
        output = plain(**named)
        output.logits = output.logits * 1.05
        return output

    model.forward = forward


@needs_kernels
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: _changed(model.model.layers[1], 1.05, 1.0), "a norm's input"),
        (lambda model: _changed(model.model.layers[0], 1.0, 1.05), "a layer's output"),
        (lambda model: _changed(model.model.layers[1].self_attn, 1.05, 1.0), "an attention's input"),
        (lambda model: _changed(model.model.layers[0].self_attn, 1.0, 1.05), "a layer's sum"),
        (lambda model: _changed(model.model.layers[0].mlp, 1.05, 1.0), "a gate's input"),
        (lambda model: _changed(model.model.layers[1].mlp, 1.0, 1.05), "a layer's output"),
        (_softer, "the logits"),
    ],
)
def test_layers_of_another_form_keep_them_away_in_any_type(
    change: Change, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model: PreTrainedModel = from_config(LlamaConfig(**_SIZES)).to(dtype)
        assert engine_of(copy.deepcopy(model)).executor.startswith("native-")
        change(model)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert engine_of(model).executor == GENERAL
        assert says in caplog.text
