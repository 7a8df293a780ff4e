"""The combinations that this worker made: by recipe digest, over restarts.

Owns the recipe's digest and one small file each, a manifest under the digest of its recipe. The
adapters' bytes lie in the disk cache like any other's. Does not know how a combination is computed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from compute_worker.runtime.version import Version
from lorry.errors import InvalidAdapter, InvalidCombination
from lorry.format.digest import digest_of
from lorry.format.manifest import Manifest, Recipe, canonical_json, manifest_from_json


def recipe_digest(recipe: Recipe, base_id: str) -> str:
    """Identity of a combination: method, parameters, sources with weights, base; not who computed it.

    Raises InvalidCombination where a number is not finite.
    """
    facts = {
        "base_id": base_id,
        "method": recipe.method,
        "parameters": recipe.parameters_json,
        "sources": [[source.digest, source.weight] for source in recipe.sources],
    }
    try:
        return digest_of(canonical_json(facts).encode())
    except ValueError:
        raise InvalidCombination(f"expected finite weights, got {[s.weight for s in recipe.sources]}") from None


class Combinations:
    """Versions by recipe digest. held: whether the bytes of a version are still on this worker."""

    def __init__(self, directory: Path, base_id: str, held: Callable[[Version], bool]) -> None:
        self._directory = directory
        self._base_id = base_id
        self._held = held
        self._versions: dict[str, Version] = {}

    def start(self) -> None:
        """Read what an earlier life left; what does not bear out its name, or has lost its bytes, is removed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            version = self._read(path)
            if version is None or not self._held(version):
                path.unlink()
            else:
                self._versions[version.digest] = version

    def get(self, digest: str) -> Version | None:
        """The combination of this recipe, None where there is none or its bytes are gone."""
        version = self._versions.get(digest)
        if version is not None and not self._held(version):
            del self._versions[digest]
            self._path(digest).unlink(missing_ok=True)
            return None
        return version

    def add(self, digest: str, manifest: Manifest) -> Version:
        """Remember a combination whose files are in the disk cache."""
        temp = self._directory / f"{uuid.uuid4().hex}.tmp"
        temp.write_bytes(manifest.canonical_json())
        temp.replace(self._path(digest))
        self._versions[digest] = Version(digest, manifest, combined=True)
        return self._versions[digest]

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest.removeprefix('sha256:')}.json"

    def _read(self, path: Path) -> Version | None:
        try:
            manifest = manifest_from_json(path.read_bytes())
        except InvalidAdapter:
            return None
        if manifest.recipe is None or manifest.base_id != self._base_id:
            return None
        digest = recipe_digest(manifest.recipe, self._base_id)
        return Version(digest, manifest, combined=True) if path == self._path(digest) else None
