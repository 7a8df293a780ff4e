"""The smallest adapters of the kinds beyond LoRA on linear layers, made with numpy alone.

Owns one sound adapter of each kind, in PEFT's layout, for the base of `tests.support.adapters`. Does
not know torch, PEFT or any service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.adapters import CONFIG, MODULES, WEIGHTS, adapter_bytes, encode, safetensors_bytes, tensors

PREFIX = "base_model.model."
Q, DOWN = MODULES
EMBED, HEAD, NORM = "model.embed_tokens", "lm_head", "model.norm"
# Tokens and features of the base.
VOCAB, WIDTH = 32, 8
DELTA = "token_adapter.trainable_tokens_delta"
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Kind:
    """What an adapter has beside LoRA on two linear layers: tensors by name behind the prefix, fields.

    features: what its manifest says of it.
    """

    extra: Shapes
    config: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()

    def bytes(self, fill: float = 0.5) -> tuple[bytes, bytes]:
        """(adapter_config.json, adapter_model.safetensors), the extra tensors filled with one value."""
        options = {"dora": bool(self.config.get("use_dora")), "lora_bias": bool(self.config.get("lora_bias"))}
        config, _ = adapter_bytes(config=self.config)
        extra = {PREFIX + name: np.full(shape, fill, "f4") for name, shape in self.extra.items()}
        return config, safetensors_bytes(encode({**tensors(MODULES, **options), **extra}))

    def write(self, directory: Path, fill: float = 0.5) -> Path:
        """Write the two files into `directory`; answers it."""
        config, weights = self.bytes(fill)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_bytes(config)
        (directory / WEIGHTS).write_bytes(weights)
        return directory


def embedding_lora(rows: int = VOCAB, rank: int = 2) -> Shapes:
    """LoRA on the embedding."""
    return {f"{EMBED}.lora_embedding_A": (rank, rows), f"{EMBED}.lora_embedding_B": (WIDTH, rank)}


def resized(rows: int, inside: str = "") -> Shapes:
    """Embedding and head of another vocabulary."""
    return {f"{EMBED}{inside}.weight": (rows, WIDTH), f"{HEAD}{inside}.weight": (rows, WIDTH)}


def stacked(experts: int = 3, rank: int = 2) -> Shapes:
    """LoRA on both stacked weights of the experts of a layer, gate and up of 6 features each."""
    return {
        f"{EXPERTS}.base_layer.lora_A.weight": (experts * rank, WIDTH),
        f"{EXPERTS}.base_layer.lora_B.weight": (12, rank * experts),
        f"{EXPERTS}.lora_A.weight": (experts * rank, 6),
        f"{EXPERTS}.lora_B.weight": (WIDTH, rank * experts),
    }


EXPERTS = "model.layers.1.mlp.experts"
STACKED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
TARGETS = [*MODULES, "embed_tokens"]
TOKENS: Shapes = {f"{EMBED}.{DELTA}": (2, WIDTH)}
BIASES: Shapes = {f"{Q}.base_layer.bias": (8,)}
KINDS: dict[str, Kind] = {
    "head": Kind({f"{HEAD}.weight": (VOCAB, WIDTH)}, {"modules_to_save": ["lm_head"]}, ("modules_to_save",)),
    "norm": Kind({f"{NORM}.weight": (WIDTH,)}, {"modules_to_save": ["norm"]}, ("modules_to_save",)),
    "resized": Kind(resized(40), {}, ("modules_to_save",)),
    "embedding": Kind(embedding_lora(), {"target_modules": TARGETS}, ("embedding",)),
    "tokens": Kind(TOKENS, {"trainable_token_indices": [7, 3]}, ("trainable_tokens",)),
    "tokens-by-name": Kind(TOKENS, {"trainable_token_indices": {"embed_tokens": [7, 3]}}, ("trainable_tokens",)),
    "tokens-resized": Kind(
        {**TOKENS, **resized(40, ".token_adapter.base_layer")},
        {"trainable_token_indices": [38, 39]},
        ("modules_to_save", "trainable_tokens"),
    ),
    "bias-all": Kind({**BIASES, f"{NORM}.bias": (WIDTH,)}, {"bias": "all"}, ("bias",)),
    "bias-lora-only": Kind(BIASES, {"bias": "lora_only"}, ("bias",)),
    "experts": Kind(stacked(), {"target_parameters": STACKED}, ("target_parameters",)),
    "alora": Kind({}, {"alora_invocation_tokens": [5, 6]}, ("alora",)),
}
