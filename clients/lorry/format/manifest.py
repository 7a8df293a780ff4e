"""The manifest: the immutable description of a version, whose digest is the version's identity.

Owns its fields and its canonical JSON. Does not know where a version is stored, its number, its
aliases or when it was made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from lorry.format.digest import digest_of

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a bundle; its bytes are the blob `digest`."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class RecipeSource:
    """A source of a combination and its weight."""

    digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a version was combined. `parameters_json` is a canonical JSON object."""

    method: str
    parameters_json: str
    sources: tuple[RecipeSource, ...]
    tool: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version is; see Manifest in types.proto for the fields."""

    files: tuple[ManifestFile, ...]
    base_id: str
    config_json: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    variant: str
    parents: tuple[str, ...] = ()
    recipe: Recipe | None = None
    schema: int = SCHEMA

    def canonical_json(self) -> bytes:
        """Sorted keys, no white space, UTF-8: equal manifests are equal bytes."""
        return canonical_json(asdict(self)).encode()

    @property
    def digest(self) -> str:
        """`sha256:...` of the canonical JSON."""
        return digest_of(self.canonical_json())

    @property
    def size(self) -> int:
        """Sum of the file sizes in bytes."""
        return sum(file.size for file in self.files)


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value. Raises ValueError on NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
