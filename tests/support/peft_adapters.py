"""Adapters that PEFT made, and PEFT as the oracle of what they compute.

Owns random weights in every tensor of an adapter (B, biases and magnitudes too), saved by PEFT
itself, and logits by PEFT on a copy of the base.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorry.format.bundle import WEIGHTS_NAME, check_bundle
from lorry.format.facts import AdapterFacts

QUIET = pytest.mark.filterwarnings(
    # PEFT 0.21.2 asks transformers 5.23 by the old name.
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
    # On purpose: an adapter may target the output head of a tied model, and its head alone is changed.
    "ignore:Model has .tie_word_embeddings=True. and a tied layer is part of the adapter:UserWarning",
    # GPT-2 mixes Conv1D and one Linear, its head.
    "ignore:fan_in_fan_out is set to:UserWarning",
    # PEFT takes the bias of lora_B for a matrix that lost a dimension.
    "ignore:Adapter 'default'. .* LoRA tensor.s. have invalid shape:UserWarning",
)
# Of lora_A and lora_B: an adapter then moves logits by about as much as the base's own layers do.
_SPREAD = 0.1
# What takes the place of the base's own: it stays near it.
_REPLACED = ("modules_to_save.", "trainable_tokens_delta")


def save_adapter(
    model: PreTrainedModel, into: Path, seed: int = 1, *, embeddings: bool = False, **config: object
) -> Path:
    """A random adapter for `model`, which stays as it is. embeddings: with what PEFT saves of a resized vocabulary."""
    own = copy.deepcopy(config)  # PEFT changes the lists that it is given
    lora = LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=model.config.model_type == "gpt2", **own)
    adapted = get_peft_model(copy.deepcopy(model), lora)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "magnitude" in name:
            parameter.data *= 1 + 0.2 * noise
        elif "lora_" in name:
            parameter.data.copy_(_SPREAD * noise)  # in place: tied ones stay tied
        elif any(part in name for part in _REPLACED) or (lora.bias != "none" and name.endswith("bias")):
            parameter.data += _SPREAD * noise
    adapted.save_pretrained(into, save_embedding_layers=embeddings)
    return into


def facts_of(adapter: Path) -> AdapterFacts:
    """What Lorry derives from the folder."""
    return check_bundle(adapter).facts


def weights_of(adapter: Path) -> Path:
    """The folder's weights."""
    return adapter / WEIGHTS_NAME


def peft_logits(
    model: PreTrainedModel, adapters: Sequence[Path], tokens: Sequence[int], weights: Sequence[float] = ()
) -> Tensor:
    """Logits [tokens, vocabulary] of one prompt by PEFT, the adapters all active, each times its weight."""
    return logits_of(adapted_model(model, adapters, weights), tokens)


def adapted_model(model: PreTrainedModel, adapters: Sequence[Path], weights: Sequence[float] = ()) -> nn.Module:
    """A copy of the base in which PEFT has the adapters active, each times its weight."""
    copied = copy.deepcopy(model)
    if not adapters:
        return copied
    names = [f"adapter{index}" for index in range(len(adapters))]
    adapted = PeftModel.from_pretrained(copied, adapters[0], adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        adapted.load_adapter(adapter, adapter_name=name)
    adapted.base_model.set_adapter(names)
    for name, weight in zip(names, weights or [1.0] * len(names), strict=True):
        _scale(adapted, name, weight)
    return adapted.eval()


@torch.no_grad()
def logits_of(model: nn.Module, tokens: Sequence[int]) -> Tensor:
    """Logits [tokens, vocabulary] of one prompt."""
    logits: Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return logits


def _scale(adapted: PeftModel, name: str, weight: float) -> None:
    for module in adapted.modules():
        if isinstance(module, LoraLayer) and name in module.scaling:
            module.scaling[name] *= weight
