"""A base model's files, and what their weights are: plain, quantised, or a GGUF file.

Owns where transformers finds a base, which quantised weights are understood, what they are called and
what their values are. Whoever loads a base asks here, so that the command that registers one and the
worker that serves it mean the same model. Needs torch and transformers. Does not know fingerprints,
adapters, or how a model is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import AutoModelForCausalLM, GgufConfig, PretrainedConfig, PreTrainedModel

from lorry import lean
from lorry.errors import MissingExtra

# What a base's `quantization` says of plain weights, and how the names begin of those that are understood.
PLAIN = "none"
INT8 = "int8-per-"
# torchao's form of them: a scale for each row, group or matrix, and activations that stay as they are. What
# quantises activations by the whole batch would make one request's answer depend on another's.
_INT8_CONFIG = "Int8WeightOnlyConfig"


def located(path_or_id: str) -> tuple[str, dict[str, str]]:
    """A base's place, and what else each `from_pretrained` has to be told: of a GGUF file, which one it is."""
    path = Path(path_or_id)
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (path_or_id, {})


def load(path_or_id: str, **options: Any) -> PreTrainedModel:
    """What AutoModelForCausalLM makes of a folder, hub id or GGUF file; `options` as of its from_pretrained.

    A GGUF file is unpacked: transformers computes with its blocks on GPUs alone, and for two families.
    Raises MissingExtra, and what from_pretrained raises for a place that has no such model.
    """
    place, naming = located(path_or_id)
    if naming:
        options["quantization_config"] = GgufConfig(dequantize=True)
    try:
        with lean.shapes_alone():
            return AutoModelForCausalLM.from_pretrained(place, **naming, **options)
    except ImportError as error:
        raise MissingExtra(
            f"{path_or_id}: expected what its weights need, got: {error}; pip install 'lorry[quantized]' brings torchao"
        ) from error


def quantization(config: PretrainedConfig) -> str:
    """How weights are kept: `none`, `int8-per-row`, `int8-per-group-32`, or what is not understood by its own name."""
    fields = config.to_dict().get("quantization_config")
    if not isinstance(fields, dict):
        return PLAIN
    kind = _inner(fields, "quant_type", "default")
    if kind.get("_type") == _INT8_CONFIG:
        return INT8 + _granularity(_inner(kind, "_data", "granularity"))
    method = fields.get("quant_method", "unknown")
    # transformers has an enumeration here once a model is loaded, and a string before.
    return "-".join(str(part) for part in (getattr(method, "value", method), kind.get("_type")) if part)


def _granularity(fields: Mapping[str, Any]) -> str:
    """`PerGroup` of 32 is `group-32`."""
    size = _inner(fields, "_data").get("group_size")
    return str(fields.get("_type")).removeprefix("Per").lower() + (f"-{size}" if size else "")


def _inner(fields: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The object at the end of a path of names, empty where there is none."""
    for name in names:
        found = fields.get(name)
        fields = found if isinstance(found, dict) else {}
    return fields


def packed(weight: Tensor) -> bool:
    """Whether it is kept as integers with scales."""
    return is_traceable_wrapper_subclass(weight)


def dense(weight: Tensor) -> Tensor:
    """The values of a weight: itself where it is plain, in float32 where it is packed."""
    if not packed(weight):
        return weight
    unpack: Any = weight.dequantize  # torch's own takes no type
    values: Tensor = unpack(torch.float32)
    return values


def parts(weight: Tensor) -> Iterator[Tensor]:
    """The tensors that hold a weight: itself where it is plain, its integers and scales where it is packed."""
    if packed(weight):
        names, _ = weight.__tensor_flatten__()  # type: ignore[attr-defined] # what makes it a packed one
        yield from (getattr(weight, name) for name in names)
    else:
        yield weight
