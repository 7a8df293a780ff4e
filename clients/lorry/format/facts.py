"""What an adapter is, derived from its configuration and tensor index alone.

Owns the facts that the registry records, the verdict judges and the worker serves by. Does not
read weights, and never believes a claim that the bytes do not bear out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Variant(StrEnum):
    """How an adapter changes its base."""

    LORA = "lora"
    RSLORA = "rslora"
    DORA = "dora"


@dataclass(frozen=True, slots=True)
class AdaptedModule:
    """One module that the adapter changes.

    A is [rank, in_features], B is [out_features, rank]; scaling is alpha / rank, or alpha /
    sqrt(rank) with rsLoRA, after the configuration's patterns.
    """

    name: str
    rank: int
    scaling: float
    in_features: int
    out_features: int
    lora_bias: bool = False
    magnitude: bool = False


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """The adapter as a whole.

    rank: the largest over the modules. alpha: lora_alpha before patterns. base_name: the
    configuration's base_model_name_or_path, None where it has none. config_json: canonical JSON of
    the configuration (sorted keys, neutral fields dropped). dtype: of the tensors, safetensors'
    name (`F32`, `BF16`, `F16`). modules: ordered by name.
    """

    variant: Variant
    rank: int
    alpha: float
    base_name: str | None
    config_json: str
    dtype: str
    modules: tuple[AdaptedModule, ...]
