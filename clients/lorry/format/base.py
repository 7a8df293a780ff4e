"""A base model as facts: fingerprint, shape, module table.

Owns the values that the registry stores, the worker derives and the compatibility verdict reads.
Does not know how a fingerprint is computed (`lorry.fingerprint` does, with torch).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ModuleKind(StrEnum):
    """What a targetable module is."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    CONV1D = "conv1d"
    EXPERTS = "experts"


@dataclass(frozen=True, slots=True)
class BaseModule:
    """A module that an adapter may target. Features are counts; an embedding's input is its rows.

    Of experts the parameter that stacks their weights, by its path: `experts` matrices of these features.
    """

    name: str
    kind: ModuleKind
    in_features: int
    out_features: int
    experts: int = 0


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """Identity and shape of a base model.

    base_id: fingerprint of architecture and weights. architecture_id: of the architecture alone.
    modules: every linear, embedding, Conv1D and stack of experts, ordered by name; none under the output head's
    name is left out. Those of bases that were registered before there were stacks in it have none. quantization:
    `none`, `int8`, ...
    """

    base_id: str
    architecture_id: str
    model_type: str
    vocab_size: int
    modules: tuple[BaseModule, ...]
    quantization: str = "none"
