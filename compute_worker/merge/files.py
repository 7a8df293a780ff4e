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
from lorry.format.derive import tensor_names


@dataclass(frozen=True, slots=True)
class Merged:
    """A module of a result: the delta is B A; bias is lora_bias, [out], None where no source has one."""

    factors: Factors
    bias: Tensor | None


def write_adapter(
    into: Path, modules: Mapping[str, Merged], dtype: torch.dtype, sources: Sequence[CombineSource]
) -> None:
    """Write adapter_config.json and adapter_model.safetensors of a result into `into`, made where missing.

    Raises InvalidCombination where a value does not fit `dtype`; then nothing was written.
    """
    tensors = _tensors(modules, dtype)
    config = _config({name: merged.factors.a.shape[0] for name, merged in modules.items()}, sources)
    config["lora_bias"] = any(merged.bias is not None for merged in modules.values())
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".combine-") as scratch:
        work = Path(scratch)
        save_file(tensors, work / WEIGHTS_NAME, metadata={"format": "pt"})
        (work / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            (work / name).replace(into / name)


def _tensors(modules: Mapping[str, Merged], dtype: torch.dtype) -> dict[str, Tensor]:
    biased = any(merged.bias is not None for merged in modules.values())
    tensors = {}
    for module, merged in modules.items():
        a, b, bias, _ = tensor_names(module)
        tensors[a] = _stored(merged.factors.a, dtype, module)
        tensors[b] = _stored(merged.factors.b, dtype, module)
        if biased:  # where one module has lora_bias, all have
            none = torch.zeros(merged.factors.b.shape[0])
            tensors[bias] = _stored(none if merged.bias is None else merged.bias, dtype, module)
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
        "bias": "none",
        "fan_in_fan_out": any(_configured(source, "fan_in_fan_out") for source in sources),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": pattern,
        "target_modules": sorted({target for source in sources for target in _targets(source)}),
        "task_type": "CAUSAL_LM",  # what Lorry serves
        "use_dora": False,
        "use_rslora": False,
    }


def _targets(source: CombineSource) -> list[str]:
    """The source's own short names where it lists them; a pattern says nothing of the result, its modules do."""
    targets = _configured(source, "target_modules")
    return targets if isinstance(targets, list) else [module.name for module in source.facts.modules]


def _configured(source: CombineSource, field: str) -> object:
    return json.loads(source.facts.config_json).get(field)
