"""Tiny random mixtures of experts.

Owns their configurations: between them, experts with and without shared ones, and stacks with the two sides of
their matrices either way around, with biases.
"""

from __future__ import annotations

import copy

from transformers import (
    GptOssConfig,
    OlmoeConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from tests.support.models import VOCABULARY, config_of, from_config

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXTURES: dict[str, PretrainedConfig] = {
    "mixtral": config_of("mixtral"),
    "qwen3_moe": Qwen3MoeConfig(**_SIZES, num_experts=4, moe_intermediate_size=24, head_dim=8),
    # Its shared expert is an MLP that every token passes.
    "qwen2_moe": Qwen2MoeConfig(
        **_SIZES, num_experts=4, moe_intermediate_size=24, shared_expert_intermediate_size=40, norm_topk_prob=True
    ),
    "olmoe": OlmoeConfig(**_SIZES, num_experts=5),
    "gpt_oss": GptOssConfig(
        **_SIZES, num_local_experts=4, head_dim=8, sliding_window=6, rope_parameters={"rope_type": "default"}
    ),
}


def mixture(family: str) -> PreTrainedModel:
    """With a configuration of its own: an engine writes into it."""
    return from_config(copy.deepcopy(MIXTURES[family]))
