"""Tiny random models of some families, made from their configuration, the same in every run.

Owns the configurations and the seeds. Weights are large enough that every part of a model shows in
its logits, and exact in bfloat16, so that a load in any type holds the same values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 131
WINDOW = 6
FAMILIES = ("llama", "mistral", "qwen3", "gemma2", "gpt2", "opt")
# What adapters of each family target in most tests: attention and MLP, under the names of that family.
TARGETS = {
    "llama": ("q_proj", "v_proj", "down_proj"),
    "mistral": ("q_proj", "k_proj", "gate_proj"),
    "qwen3": ("q_proj", "v_proj", "up_proj"),
    "gemma2": ("q_proj", "o_proj", "down_proj"),
    "gpt2": ("c_attn", "c_fc", "c_proj"),
    "opt": ("q_proj", "out_proj", "fc1"),
}
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ROTARY = {**_COMMON, "intermediate_size": 48, "num_key_value_heads": 2}
_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_ROTARY),
    "mistral": lambda: MistralConfig(**_ROTARY, sliding_window=WINDOW, head_dim=8),
    "qwen2": lambda: Qwen2Config(**_ROTARY),
    "qwen3": lambda: Qwen3Config(**_ROTARY, head_dim=16, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(
        **_ROTARY,
        head_dim=16,
        sliding_window=WINDOW,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "mixtral": lambda: MixtralConfig(**_ROTARY, num_local_experts=4, num_experts_per_tok=2),
    "opt": lambda: OPTConfig(**{**_COMMON, "pad_token_id": 1}, ffn_dim=48, word_embed_proj_dim=32),
}


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A model of its own, in float32, that the caller may change."""
    return copy.deepcopy(_cached(family, seed))


def from_config(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A random model of any configuration, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.15)
            elif "bias" in name:
                nn.init.normal_(parameter, std=0.1)
            parameter.data = parameter.data.to(torch.bfloat16).float()
        model.tie_weights()
    return model.requires_grad_(requires_grad=False)


def config_of(family: str) -> PretrainedConfig:
    """The family's tiny configuration."""
    return _CONFIGS[family]()


def saved_model(family: str, into: Path, seed: int = 0) -> Path:
    """The model as a Hugging Face folder."""
    tiny_model(family, seed).save_pretrained(into)
    return into


@cache
def _cached(family: str, seed: int) -> PreTrainedModel:
    return from_config(_CONFIGS[family](), seed)
