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


@dataclass(frozen=True, slots=True)
class BaseModule:
    """A module that an adapter may target. Features are counts; an embedding's input is its rows."""

    name: str
    kind: ModuleKind
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """Identity and shape of a base model.

    base_id: fingerprint of architecture and weights. architecture_id: of the architecture alone.
    modules: every linear, embedding and Conv1D, ordered by name; none under the output head's name
    is left out. quantization: `none`, `int8`, ...
    """

    base_id: str
    architecture_id: str
    model_type: str
    vocab_size: int
    modules: tuple[BaseModule, ...]
    quantization: str = "none"
