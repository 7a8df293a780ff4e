"""The combinations that this worker made: by recipe digest, over restarts.

Owns the recipe's digest and one small file each: under the digest of the recipe the manifest, and the
namespaces of the sources. The adapters' bytes lie in the disk cache like any other's. Does not know
how a combination is computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from compute_worker.runtime.files import write_whole
from compute_worker.runtime.rights import Homes
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

    def files(self) -> set[str]:
        """Digests of the files of all combinations."""
        return {file.digest for version in self._versions.values() for file in version.manifest.files}

    def add(self, digest: str, manifest: Manifest, homes: Homes) -> Version:
        """Remember a combination whose files are in the disk cache. Raises StorageUnavailable."""
        return self._note(Version(digest, manifest, combined=True, homes=homes))

    def open_to(self, version: Version, homes: Homes) -> Version:
        """The combination, whose sources have these homes besides. Raises StorageUnavailable."""
        wider = tuple(known | more for known, more in zip(version.homes, homes, strict=True))
        return version if wider == version.homes else self._note(replace(version, homes=wider))

    def _note(self, version: Version) -> Version:
        said = {
            "homes": [sorted(group) for group in version.homes],
            "manifest": version.manifest.canonical_json().decode(),
        }
        write_whole(self._path(version.digest), json.dumps(said).encode())
        self._versions[version.digest] = version
        return version

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest.removeprefix('sha256:')}.json"

    def _read(self, path: Path) -> Version | None:
        try:
            said = json.loads(path.read_bytes())
            manifest = manifest_from_json(said["manifest"].encode())
            homes = tuple(frozenset(map(str, group)) for group in said["homes"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, InvalidAdapter):
            return None
        if manifest.recipe is None or manifest.base_id != self._base_id:
            return None
        digest = recipe_digest(manifest.recipe, self._base_id)
        return Version(digest, manifest, combined=True, homes=homes) if path == self._path(digest) else None
