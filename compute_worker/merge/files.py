"""The result of a merge as a PEFT folder.

Owns the configuration that makes PEFT and Lorry load a result with the right rank and a scaling of 1 in
each module. Writes both files or none, and equal results as equal bytes. Does not know how a result
came about.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from compute_worker.combination import CombineSource
from compute_worker.merge.stacked import Factors
from lorry.errors import InvalidCombination
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME
from lorry.format.facts import AdaptedModule
from lorry.format.names import Part, lora_names, tensor_name


@dataclass(frozen=True, slots=True)
class Merged:
    """A module of a result: the delta is B A; bias is lora_bias, [out], None where no source has one."""

    module: AdaptedModule
    factors: Factors
    bias: Tensor | None


def write_adapter(
    into: Path,
    merged: Sequence[Merged],
    carried: Mapping[str, Tensor],
    dtype: torch.dtype,
    sources: Sequence[CombineSource],
) -> None:
    """Write adapter_config.json and adapter_model.safetensors of a result into `into`, made where missing.

    carried: tensors that go there as they are, by name. Raises InvalidCombination where a value does not fit
    `dtype`; then nothing was written.
    """
    tensors = {**_tensors(merged, dtype), **carried}
    config = _config({one.module.name: one.factors.a.shape[0] for one in merged}, sources)
    config["lora_bias"] = any(one.bias is not None for one in merged)
    config |= _replaced(sources)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".combine-") as scratch:
        work = Path(scratch)
        save_file(tensors, work / WEIGHTS_NAME, metadata={"format": "pt"})
        (work / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            (work / name).replace(into / name)


def _tensors(merged: Sequence[Merged], dtype: torch.dtype) -> dict[str, Tensor]:
    biased = any(one.bias is not None for one in merged)
    tensors = {}
    for one in merged:
        name = one.module.name
        a, b, *_ = lora_names(one.module)
        tensors[a] = _stored(one.factors.a, dtype, name)
        tensors[b] = _stored(one.factors.b, dtype, name)
        if biased:  # where one module has lora_bias, all have
            none = torch.zeros(one.factors.b.shape[0])
            tensors[tensor_name(name, Part.B_BIAS)] = _stored(none if one.bias is None else one.bias, dtype, name)
    return tensors


def _stored(tensor: Tensor, dtype: torch.dtype, module: str) -> Tensor:
    stored = tensor.to(dtype).contiguous()
    if not stored.isfinite().all():
        raise InvalidCombination(f"{module}: expected values that {dtype} holds, got up to {tensor.abs().max():.3g}")
    return stored


def _config(ranks: Mapping[str, int], sources: Sequence[CombineSource]) -> dict[str, object]:
    """What PEFT needs to load the result. lora_alpha = r, also where they differ by module: scaling is 1.

    The keys of both patterns are whole paths, anchored, so that none matches the end of a longer path.
    """
    rank = max(ranks.values())
    pattern = {f"^{module}": own for module, own in sorted(ranks.items()) if own != rank}
    return {
        "alpha_pattern": pattern,
        "base_model_name_or_path": next((s.facts.base_name for s in sources if s.facts.base_name), None),
        "bias": _bias(sources),
        "fan_in_fan_out": any(_configured(source, "fan_in_fan_out") for source in sources),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": pattern,
        # Whole paths: a source's short names may have meant fewer modules, by fields that a result has not.
        "target_modules": sorted(ranks),
        "task_type": "CAUSAL_LM",  # what Lorry serves
        "use_dora": False,
        "use_rslora": False,
    }


def _replaced(sources: Sequence[CombineSource]) -> dict[str, object]:
    """What PEFT needs to find the tensors that are carried over, and from where on it is active; if there is any."""
    fields = {
        "alora_invocation_tokens": list(sources[0].facts.invocation),
        "modules_to_save": sorted({entry for source in sources for entry in _listed(source, "modules_to_save")}),
        "trainable_token_indices": {one.name: list(one.indices) for source in sources for one in source.facts.tokens},
    }
    return {field: value for field, value in fields.items() if value}


def _bias(sources: Sequence[CombineSource]) -> str:
    trained = {source.facts.bias for source in sources if source.facts.biases}
    return trained.pop() if len(trained) == 1 else "all" if trained else "none"


def _listed(source: CombineSource, field: str) -> list[str]:
    value = _configured(source, field)
    return value if isinstance(value, list) else []


def _configured(source: CombineSource, field: str) -> object:
    return json.loads(source.facts.config_json).get(field)
