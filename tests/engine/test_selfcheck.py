"""The check at start finds what no list of names knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, MixtralConfig, PreTrainedModel

from compute_worker.engine.engine import TransformersEngine
from compute_worker.engine.linear import AdaptedLinear
from lorry.errors import InvalidInput, UnsupportedModel
from tests.support.models import FAMILIES, config_of, from_config, tiny_model
from tests.support.steps import Budgets, engine_of


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_six_families_pass(family: str, dtype: torch.dtype) -> None:
    engine = engine_of(tiny_model(family).to(dtype))

    assert engine.base.model_type == config_of(family).model_type


def rope_of_the_longest_position(model: PreTrainedModel) -> None:
    """What dynamic rope does: every token sees the longest position of the batch."""
    rotary = model.model.rotary_emb
    plain = rotary.forward
    rotary.forward = lambda x, position_ids: plain(x, position_ids * (1 + position_ids.max() / 50))


def mixing_neighbours(model: PreTrainedModel) -> None:
    """What a convolution over the sequence does: it sees the neighbouring request."""

    class Mixing(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + 0.1 * self.inner(x.roll(1, 1))

    model.model.layers[1].mlp = Mixing(model.model.layers[1].mlp)


@pytest.mark.parametrize("change", [rope_of_the_longest_position, mixing_neighbours])
def test_a_model_in_which_requests_see_each_other_is_refused(change: Callable[[Any], None]) -> None:
    model = tiny_model("llama")
    change(model)

    with pytest.raises(UnsupportedModel, match="logits in a mixed batch are off"):
        engine_of(model)


def test_a_layer_that_does_not_attend_is_refused() -> None:
    model = tiny_model("llama")
    attention = model.model.layers[1].self_attn
    attention.forward = lambda hidden_states, **_: (hidden_states, None)

    with pytest.raises(UnsupportedModel, match="expected 2 layers to attend, got 1"):
        engine_of(model)


def test_a_layer_that_attends_twice_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers[1].self_attn.layer_idx = 0

    with pytest.raises(UnsupportedModel, match="layer 0 does so again"):
        engine_of(model)


def test_attention_with_an_argument_that_nobody_knows_is_refused() -> None:
    model = tiny_model("llama")
    attention = model.model.layers[0].self_attn
    plain = attention.forward
    attention.forward = lambda *args, **kwargs: plain(*args, **kwargs, position_bias=torch.zeros(1))

    with pytest.raises(UnsupportedModel, match="position_bias"):
        engine_of(model)


def test_a_model_whose_own_code_fails_is_refused_by_name() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.forward = lambda x: x.view(7)

    with pytest.raises(UnsupportedModel, match="llama: its forward fails with RuntimeError: shape"):
        engine_of(model)


def test_routers_and_experts_are_no_targets() -> None:
    config = MixtralConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    engine = engine_of(from_config(config))

    wrapped = {name.rpartition(".")[2] for name in engine._layers}
    assert wrapped == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}


def test_a_linear_that_sees_other_rows_than_the_tokens_is_no_target() -> None:
    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(torch.cat([x, x], 1))[:, : x.shape[1]]

    model = tiny_model("llama")
    model.model.layers[0].mlp.down_proj = Twice(model.model.layers[0].mlp.down_proj)

    engine = engine_of(model)

    assert "model.layers.0.mlp.down_proj.inner" not in engine._layers
    assert "model.layers.1.mlp.down_proj" in engine._layers


def test_wrapped_linears_answer_like_the_bases() -> None:
    engine = engine_of(tiny_model("llama"))
    layer = engine._layers["model.layers.0.mlp.down_proj"]

    assert isinstance(layer, AdaptedLinear)
    assert layer.weight is layer.base.weight
    assert layer.bias is None
    assert (layer.in_features, layer.out_features) == (48, 32)


def test_budgets_become_sizes() -> None:
    limits = TransformersEngine(tiny_model("llama"), Budgets(pool_bytes=10**6, kv_bytes=10**6, max_context=100)).limits

    of_layers = 2 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3) + (32 + 131)
    assert limits.row_bytes == 4 * of_layers
    assert limits.pool_rows == 10**6 // limits.row_bytes
    assert limits.kv_blocks == 10**6 // (16 * 2 * 2 * 2 * 8 * 4)
    assert limits.max_context == 100


@pytest.mark.parametrize(("max_context", "expected"), [(0, 128), (1000, 128), (5, 5)])
def test_a_context_is_at_most_what_the_model_was_made_for(max_context: int, expected: int) -> None:
    engine = TransformersEngine(tiny_model("llama"), Budgets(1 << 20, 1 << 20, max_context))

    assert engine.limits.max_context == expected


@pytest.mark.parametrize(
    ("budgets", "reason"),
    [(Budgets(100, 1 << 20), "pool of at least one row"), (Budgets(1 << 20, 100), "KV cache of at least")],
)
def test_budgets_without_room_for_anything_are_typed_errors(budgets: Budgets, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        TransformersEngine(from_config(LlamaConfig(**config_of("llama").to_dict())), budgets)
