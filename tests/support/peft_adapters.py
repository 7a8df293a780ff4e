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
from torch import Tensor
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


def save_adapter(model: PreTrainedModel, into: Path, seed: int = 1, **config: object) -> Path:
    """A random adapter for `model`, which stays as it is."""
    lora = LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=model.config.model_type == "gpt2", **config)
    adapted = get_peft_model(copy.deepcopy(model), lora)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "magnitude" in name:
            parameter.data *= 1 + 0.2 * noise
        elif "lora_" in name:
            parameter.data = _SPREAD * noise
    adapted.save_pretrained(into, save_embedding_layers=False)
    return into


def facts_of(adapter: Path) -> AdapterFacts:
    """What Lorry derives from the folder."""
    return check_bundle(adapter).facts


def weights_of(adapter: Path) -> Path:
    """The folder's weights."""
    return adapter / WEIGHTS_NAME


@torch.no_grad()
def peft_logits(
    model: PreTrainedModel, adapters: Sequence[Path], tokens: Sequence[int], weights: Sequence[float] = ()
) -> Tensor:
    """Logits [tokens, vocabulary] of one prompt by PEFT, the adapters all active, each times its weight."""
    copied = copy.deepcopy(model)
    if not adapters:
        return copied(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    names = [f"adapter{index}" for index in range(len(adapters))]
    adapted = PeftModel.from_pretrained(copied, adapters[0], adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        adapted.load_adapter(adapter, adapter_name=name)
    adapted.base_model.set_adapter(names)
    for name, weight in zip(names, weights or [1.0] * len(names), strict=True):
        _scale(adapted, name, weight)
    return adapted.eval()(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]


def _scale(adapted: PeftModel, name: str, weight: float) -> None:
    for module in adapted.modules():
        if isinstance(module, LoraLayer) and name in module.scaling:
            module.scaling[name] *= weight
