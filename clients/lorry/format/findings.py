"""Reasons of a verdict: every one there is, as on the wire.

Owns their codes and what a reason carries. Does not know when one applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Why an adapter does not fit, as on the wire."""

    UNKNOWN_MODULE = "UNKNOWN_MODULE"
    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    RANK_MISMATCH = "RANK_MISMATCH"
    UNSUPPORTED_VARIANT = "UNSUPPORTED_VARIANT"
    BASE_MISMATCH = "BASE_MISMATCH"
    BASE_UNVERIFIED = "BASE_UNVERIFIED"
    BASE_VARIANT = "BASE_VARIANT"
    VOCABULARY_MISMATCH = "VOCABULARY_MISMATCH"
    QUANTIZATION_MISMATCH = "QUANTIZATION_MISMATCH"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason, or (`warning`) one remark. `module` is empty where it is about the whole adapter."""

    code: Code
    message: str
    module: str = ""
    warning: bool = False
