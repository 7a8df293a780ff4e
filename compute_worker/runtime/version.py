"""An adapter as the worker means it: identity, manifest, and where its bytes come from.

Owns immutable values that cache, loader and combinations pass around. Does not know names,
tiers or tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from compute_worker.runtime.api import Resolved
from lorry.errors import InvalidAdapter
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME
from lorry.format.manifest import Manifest, ManifestFile


@dataclass(frozen=True, slots=True)
class Version:
    """A published version (digest of its manifest) or a combination made here (digest of its recipe)."""

    digest: str
    manifest: Manifest
    combined: bool = False

    @property
    def config(self) -> ManifestFile:
        """adapter_config.json. Raises InvalidAdapter where there is none."""
        return self._file(CONFIG_NAME)

    @property
    def weights(self) -> ManifestFile:
        """adapter_model.safetensors. Raises InvalidAdapter where there is none."""
        return self._file(WEIGHTS_NAME)

    def _file(self, name: str) -> ManifestFile:
        for file in self.manifest.files:
            if file.name == name:
                return file
        raise InvalidAdapter(f"version {self.digest} has no {name}")


@dataclass(frozen=True, slots=True)
class Choice:
    """One adapter of a selection after its one resolution. `adapter`: the reference as it was written."""

    adapter: str
    version: Version
    weight: float = 1.0

    @property
    def resolved(self) -> Resolved:
        """As callers are told."""
        return Resolved(self.adapter, self.version.digest, self.weight)
