"""What the runtime and the merges say to each other.

Owns: plain values and one Protocol, nothing that runs. A merge is files in and files out, so the runtime
knows no torch and a merge no names. Does not know the methods or what they take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorry.format.facts import AdapterFacts


@dataclass(frozen=True, slots=True)
class CombineMethod:
    """A method with its parameters, e.g. ("ties", {"density": 0.5, "majority_sign": "total"}).

    Parameters are complete (defaults filled in), so that equal recipes are equal values.
    """

    name: str
    parameters: tuple[tuple[str, float | int | str], ...] = ()


@dataclass(frozen=True, slots=True)
class CombineSource:
    """A verified adapter on disk (`weights` is its safetensors file) with its weight."""

    weights: Path
    facts: AdapterFacts
    digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a combination is from the exact weighted sum of its sources' deltas D: |made - D| / |D| by
    Frobenius norms, over all modules and in the one that is furthest from it. Infinite where D is 0 and it is not.
    """

    relative_error: float
    worst_module: str
    worst_relative_error: float


class Combiner(Protocol):
    """The merges. Pure: files in, files out; slow; any thread."""

    def combine(self, method: CombineMethod, sources: Sequence[CombineSource], into: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors of the result into `into`.

        Raises InvalidCombination, UnsupportedCombination, DataLoss (a source's file is damaged). Nothing is
        written where it raises.
        """

    def compare(self, sources: Sequence[CombineSource], made: Path) -> Deviation:
        """How far the result in the folder `made` is from the exact sum of its sources. Raises as `combine`."""
