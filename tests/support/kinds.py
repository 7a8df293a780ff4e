"""One adapter of every kind that PEFT has for a language model, by family of tiny models.

Owns the configurations. `resized_model` is a base as somebody has it who added tokens to it before training.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from tests.support.models import tiny_model

Config = dict[str, object]

_ROTARY: dict[str, Config] = {
    "lora": {"r": 4, "target_modules": ["q_proj", "down_proj"]},
    "dora": {"r": 2, "target_modules": ["v_proj"], "use_dora": True},
    "head": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"r": 2, "target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]},
    "ends": {"r": 3, "target_modules": ["o_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding-lora": {"r": 3, "lora_alpha": 5, "target_modules": ["embed_tokens", "q_proj"]},
    "embedding-lora-alone": {"r": 5, "use_rslora": True, "target_modules": ["embed_tokens"]},
    "tokens": {"r": 2, "target_modules": ["k_proj"], "trainable_token_indices": [130, 4, 57, 9]},
    "norms": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "inner": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["o_proj"]},
    "mlp": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["layers.1.mlp"]},
}
KINDS: dict[str, dict[str, Config]] = {
    "llama": _ROTARY
    | {"head-tokens": {"r": 2, "target_modules": ["k_proj"], "trainable_token_indices": {"lm_head": [5, 3]}}},
    "qwen2": {
        "lora": _ROTARY["lora"],
        "bias-all": {"r": 2, "target_modules": ["q_proj", "down_proj"], "bias": "all"},
        "bias-lora-only": {"r": 2, "target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
        "dora-bias": {"r": 2, "target_modules": ["q_proj"], "bias": "lora_only", "use_dora": True},
        "tokens": _ROTARY["tokens"],
    },
    "qwen3": _ROTARY
    | {
        "ends-tied": {**_ROTARY["ends"], "ensure_weight_tying": True},
        "embedding-lora-tied": {**_ROTARY["embedding-lora"], "ensure_weight_tying": True},
        "head-norms": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["q_norm", "k_norm"]},
    },
    "gemma2": {name: _ROTARY[name] for name in ("lora", "dora", "ends", "embedding-lora", "tokens", "norms")},
    "gpt2": {
        "lora": {"r": 4, "target_modules": ["c_attn", "c_fc"]},
        "dora": {"r": 2, "target_modules": ["c_proj"], "use_dora": True},
        "bias-all": {"r": 2, "target_modules": ["c_attn"], "bias": "all"},
        "head": {"r": 2, "target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
        "embeddings": {"r": 2, "target_modules": ["c_attn"], "modules_to_save": ["wte", "wpe"]},
        "embedding-lora": {"r": 3, "target_modules": ["wte", "wpe", "c_attn"]},
        "tokens": {"r": 2, "target_modules": ["c_attn"], "trainable_token_indices": [7, 8, 130]},
        "norm": {"r": 2, "target_modules": ["c_attn"], "modules_to_save": ["ln_f"]},
        "inner": {"r": 2, "target_modules": ["c_attn"], "modules_to_save": ["mlp.c_proj"]},
    },
    "opt": {
        "lora": {"r": 4, "target_modules": ["q_proj", "fc1"]},
        "lora-bias": {"r": 2, "target_modules": ["fc1"], "lora_bias": True},
        "lora-bias-all": {"r": 2, "target_modules": ["fc1"], "lora_bias": True, "bias": "all"},
        "bias-all": {"r": 2, "target_modules": ["q_proj"], "bias": "all"},
        "bias-lora-only": {"r": 2, "target_modules": ["fc2"], "bias": "lora_only"},
        "head": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        "tokens": {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [7, 8, 130]},
    },
}


def resized_model(family: str, tokens: int) -> PreTrainedModel:
    """The family's tiny model with so many tokens; those that both have are the same."""
    model = copy.deepcopy(tiny_model(family))
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    for seed, module in enumerate((model.get_input_embeddings(), model.get_output_embeddings())):
        old = module.weight.data
        noise = torch.randn(tokens, old.shape[1], generator=torch.Generator().manual_seed(seed)) * 0.15
        noise[: min(tokens, len(old))] = old[:tokens]
        module.weight = nn.Parameter(noise, requires_grad=False)
        if isinstance(module, nn.Embedding):
            module.num_embeddings = tokens
        else:
            module.out_features = tokens
    model.config.vocab_size = tokens
    if tied:
        model.tie_weights()
    return model
