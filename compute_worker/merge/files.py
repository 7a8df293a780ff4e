"""Adapters as files, for the merges: factors in, a PEFT folder out.

Owns reading the factors of a verified file, and the configuration that makes PEFT and Lorry load a
result with the right rank and a scaling of 1 in each module. Writes both files or none, and equal
results as equal bytes. Does not know how a result came about.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from compute_worker.contract import CombineSource
from compute_worker.merge.stacked import Factors
from lorry.errors import DataLoss, InvalidCombination, UnsupportedCombination
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME
from lorry.format.derive import tensor_names

_Tensors = dict[str, Tensor]


def read_factors(source: CombineSource) -> tuple[dict[str, Factors], torch.dtype]:
    """A source's factors in fp32 by module, and the widest dtype that they were stored in.

    Read whole, not mapped: a file that shrinks meanwhile must not take the process along. Raises DataLoss
    where the file is not safetensors, UnsupportedCombination where it has more than A and B.
    """
    try:
        tensors = load(source.weights.read_bytes())
    except SafetensorError as error:
        raise DataLoss(f"{source.digest}: expected a sound safetensors file, got: {error}") from error
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()})
    factors = {}
    for module in source.facts.modules:
        a, b, *_ = tensor_names(module.name)
        factors[module.name] = Factors(_take(tensors, a, source), _take(tensors, b, source))
    if tensors:
        raise UnsupportedCombination(f"{source.digest}: combining would lose {sorted(tensors)[:3]}")
    return factors, dtype


def _take(tensors: _Tensors, name: str, source: CombineSource) -> Tensor:
    try:
        return tensors.pop(name).float()
    except KeyError as error:
        raise DataLoss(f"{source.digest}: expected a tensor {name}, got none") from error


def write_adapter(
    into: Path, factors: Mapping[str, Factors], dtype: torch.dtype, sources: Sequence[CombineSource]
) -> None:
    """Write adapter_config.json and adapter_model.safetensors of a result into `into`, made where missing.

    Raises InvalidCombination where a value does not fit `dtype`; then nothing was written.
    """
    tensors: _Tensors = {}
    for module, pair in factors.items():
        a, b, *_ = tensor_names(module)
        tensors[a], tensors[b] = _stored(pair.a, dtype, module), _stored(pair.b, dtype, module)
    config = _config({module: pair.a.shape[0] for module, pair in factors.items()}, sources)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".combine-") as scratch:
        work = Path(scratch)
        save_file(tensors, work / WEIGHTS_NAME, metadata={"format": "pt"})
        (work / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            (work / name).replace(into / name)


def _stored(factor: Tensor, dtype: torch.dtype, module: str) -> Tensor:
    stored = factor.to(dtype).contiguous()
    if not stored.isfinite().all():
        raise InvalidCombination(f"{module}: expected values that {dtype} holds, got up to {factor.abs().max():.3g}")
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
