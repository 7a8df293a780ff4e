"""An adapter as the worker means it: identity, manifest, and where its bytes come from.

Owns immutable values that cache, loader and combinations pass around. Does not know names,
tiers or tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from compute_worker.runtime.api import Resolved
from compute_worker.runtime.rights import Homes
from lorry.errors import InvalidAdapter
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME
from lorry.format.digest import digest_of
from lorry.format.manifest import Manifest, ManifestFile, canonical_json
from lorry.format.reference import AdapterName, Reference, parse_reference

# Under this name a combination that was made here and not published is referred to by digest.
COMBINED = AdapterName("default", "combined")

TOKENIZER_NAME = "tokenizer.json"
# What says, beside it or alone, how text is read and written.
_WORDING = frozenset({TOKENIZER_NAME, "tokenizer_config.json", "chat_template.jinja", "chat_template.json"})
# Vocabularies of tokenizers that run as Python, and what was added to them: beside tokenizer.json they say the same.
SLOW_NAMES = frozenset(
    {
        "added_tokens.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
    }
)


def combined_reference(digest: str) -> str:
    """How callers refer to a combination of this worker."""
    return str(Reference(COMBINED, digest=digest))


@dataclass(frozen=True, slots=True)
class Version:
    """A published version (digest of its manifest) or a combination made here (digest of its recipe).

    reference: under which it was resolved, with its digest; empty for a combination. homes: those of
    the sources of a combination.
    """

    digest: str
    manifest: Manifest
    combined: bool = False
    reference: str = ""
    homes: Homes = ()

    @property
    def config(self) -> ManifestFile:
        """adapter_config.json. Raises InvalidAdapter where there is none."""
        return self._file(CONFIG_NAME)

    @property
    def weights(self) -> ManifestFile:
        """adapter_model.safetensors. Raises InvalidAdapter where there is none."""
        return self._file(WEIGHTS_NAME)

    @property
    def wording(self) -> tuple[ManifestFile, ...]:
        """The files of its tokenizer and its chat template, none where it brings neither."""
        return wording_of(self.manifest)

    @property
    def wording_digest(self) -> str:
        """Identity of these files, empty where there are none."""
        facts = [[file.name, file.digest] for file in self.wording]
        return digest_of(canonical_json(facts).encode()) if facts else ""

    @property
    def served(self) -> tuple[ManifestFile, ...]:
        """The files that serving needs: configuration first, weights last. Raises InvalidAdapter."""
        return (self.config, *self.wording, self.weights)

    def _file(self, name: str) -> ManifestFile:
        for file in self.manifest.files:
            if file.name == name:
                return file
        raise InvalidAdapter(f"version {self.digest} has no {name}")


def wording_of(manifest: Manifest) -> tuple[ManifestFile, ...]:
    """The files of a version's tokenizer and chat template, none where it brings neither."""
    whole = any(file.name == TOKENIZER_NAME for file in manifest.files)
    names = _WORDING if whole else _WORDING | SLOW_NAMES
    return tuple(file for file in manifest.files if file.name in names)


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

    @property
    def reference(self) -> Reference:
        """The reference, taken apart."""
        return parse_reference(self.adapter)

    @property
    def exact(self) -> Reference | None:
        """What the registry has under its digest; None for a combination, which it does not have."""
        return None if self.version.combined else Reference(self.reference.adapter, digest=self.version.digest)

    @property
    def followed(self) -> Reference | None:
        """The name or alias whose meaning may move; None for a number or a digest, which mean one version."""
        reference = self.reference
        return reference if reference.digest is None and reference.number is None else None

    @property
    def homes(self) -> Homes:
        """The namespaces that decide who may use it."""
        return self.version.homes if self.version.combined else (frozenset({self.reference.adapter.namespace}),)
