"""What the sequences are about: few names, bases and bundles, so that calls meet each other.

Owns the folders on disk and what each means. Knows no server and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry.format.base import BaseFacts
from lorry.format.bundle import check_bundle
from lorry.format.facts import AdapterFacts
from lorry.format.manifest import Manifest, ManifestFile, build_manifest
from tests.support.adapters import BASE_NAME, MODULES, base_for, write_adapter

# Two of one shape, and one that nothing here fits.
_WIDE = {name: (width * 2, out * 2, rank) for name, (width, out, rank) in MODULES.items()}
BASES: tuple[BaseFacts, ...] = (base_for(seed=0), base_for(seed=1), base_for(_WIDE, seed=2))
FITTING = frozenset(base.base_id for base in BASES[:2])
BASE_NAMES = (BASE_NAME, "tuned", "wide")
HUB_NAME = "hub/tiny"
KNOWN_AS = (HUB_NAME, "hub/other")

ADAPTERS = (("default", "json"), ("default", "pirate"), ("team", "pirate"))
NAMESPACES = ("default", "team")
ALIASES = ("canary", "prod")
HOLDERS = ("gpu-1", "gpu-2")
NO_DIGEST = "sha256:" + "0" * 64

_Q_ALONE = {"model.layers.0.self_attn.q_proj": (8, 8, 4)}
# The first two share their weights, so a blob has several users.
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"seed": 0},
    {"seed": 0, "alpha": 8},
    {"seed": 1, "rslora": True},
    {"seed": 2, "modules": _Q_ALONE, "base_name": None},
    {"seed": 3, "dora": True, "base_name": HUB_NAME},
)
BUNDLE_COUNT = len(_OPTIONS)


@dataclass(frozen=True)
class Bundle:
    """An adapter on disk."""

    folder: Path
    files: tuple[ManifestFile, ...]
    facts: AdapterFacts

    def bytes_of(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def manifest(self, base_id: str, parents: tuple[str, ...]) -> Manifest:
        return build_manifest(self.files, self.facts, base_id, parents)


def write_bundles(folder: Path) -> list[Bundle]:
    """All bundles, in folders below this one."""
    checked = [check_bundle(write_adapter(folder / str(i), **options)) for i, options in enumerate(_OPTIONS)]
    return [Bundle(bundle.directory, bundle.files, bundle.facts) for bundle in checked]


def full(key: tuple[str, str]) -> str:
    """An adapter as references spell it."""
    return f"{key[0]}/{key[1]}"
