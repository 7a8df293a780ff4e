"""The versions that this worker knows by digest: in memory, and beside their bytes over restarts.

Owns one small file for each version whose bytes are here, hashed and judged anew when it is read, so
that a reference by digest needs no registry. Does not know names that move, nor tiers.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compute_worker.contract import PublishedAdapter
from compute_worker.runtime.files import write_whole
from compute_worker.runtime.signatures import ANYTHING, SignaturePolicy
from compute_worker.runtime.version import Version, wording_of
from lorry.errors import DigestMismatch, LorryError, SignatureRequired
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME
from lorry.format.digest import digest_of
from lorry.format.manifest import Manifest, manifest_from_json
from lorry.format.reference import AdapterName, Reference, parse_adapter_name

# Manifests take some 5 KB: 20 MB at the most.
_MAX_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class _Record:
    """What a file says: the manifest, and under which adapters it was met, each with its signatures."""

    manifest: Manifest
    adapters: dict[AdapterName, tuple[bytes, ...]]

    def to_json(self) -> bytes:
        adapters = {str(name): [b64encode(one).decode() for one in signed] for name, signed in self.adapters.items()}
        return json.dumps({"adapters": adapters, "manifest": self.manifest.canonical_json().decode()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> _Record:
        """Raises ValueError, TypeError, KeyError, LorryError where it is not what `to_json` wrote."""
        said = json.loads(data)
        adapters = {
            parse_adapter_name(name): tuple(b64decode(one) for one in signed)
            for name, signed in said["adapters"].items()
        }
        return cls(manifest_from_json(said["manifest"].encode()), adapters)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is known of a file without reading it: digests of the files that serving needs, and its adapters with
    their signatures.
    """

    files: frozenset[str]
    adapters: Mapping[AdapterName, tuple[bytes, ...]]


class Known:
    """Versions by reference with digest. `has`: whether a file lies in the disk cache. policy: whose
    signature a version needs. Belongs to the event loop.
    """

    def __init__(self, directory: Path, has: Callable[[str], bool], policy: SignaturePolicy = ANYTHING) -> None:
        self._directory = directory
        self._has = has
        self._policy = policy
        self._versions: OrderedDict[Reference, Version] = OrderedDict()
        self._signatures: dict[Reference, tuple[bytes, ...]] = {}
        self._kept: dict[str, _Kept] = {}

    def start(self) -> None:
        """Take stock of what an earlier life left; what has lost its bytes, or is damaged, is removed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            record = self._read(f"sha256:{path.stem}")
            kept = None if record is None else _kept(record)
            if record is None or kept is None or not all(map(self._has, kept.files)):
                path.unlink()
            else:
                self._kept[record.manifest.digest] = kept

    def get(self, reference: Reference) -> Version | None:
        """The version of an exact reference, None where it was not met. Raises SignatureRequired."""
        if reference in self._versions:
            self._versions.move_to_end(reference)
            return self._versions[reference]
        record = self._kept_record(reference)
        if record is None:
            return None
        return self._add(reference, record.manifest, record.adapters[reference.adapter])

    def add(self, adapter: AdapterName, published: PublishedAdapter) -> Version:
        """Know a version that the registry answered. Raises DigestMismatch, SignatureRequired."""
        reference = Reference(adapter, digest=published.digest)
        if reference in self._versions:
            with suppress(SignatureRequired):  # those that it was let in with stay
                self._policy.check(adapter, published.digest, published.signatures)
                self._signatures[reference] = published.signatures
            return self._versions[reference]
        manifest = manifest_from_json(published.manifest.canonical_json())
        if manifest.digest != published.digest:
            raise DigestMismatch(f"expected the manifest of {published.digest}, got {manifest.digest}")
        return self._add(reference, manifest, published.signatures)

    def keep(self, version: Version, adapters: Iterable[AdapterName]) -> None:
        """Write down a version whose bytes are on disk, as whose it was met, and who signed it as far as that is known
        now. Raises StorageUnavailable.
        """
        kept = self._kept.get(version.digest)
        before = dict(kept.adapters) if kept else {}
        signed = {
            name: self._signatures.get(Reference(name, digest=version.digest), before.get(name, ()))
            for name in adapters
        }
        if before | signed != before and all(map(self._has, _files(version.manifest))):
            self._write(_Record(version.manifest, before | signed))

    def forget(self, reference: Reference) -> Version | None:
        """Know an exact reference no more, neither now nor after a restart; the version, where it was known.

        Raises StorageUnavailable.
        """
        version = self._versions.pop(reference, None)
        self._signatures.pop(reference, None)
        record = self._kept_record(reference)
        if record is None:
            return version
        others = {name: signed for name, signed in record.adapters.items() if name != reference.adapter}
        if others:
            self._write(_Record(record.manifest, others))
        else:
            self._remove(record.manifest.digest)
        return version or Version(record.manifest.digest, record.manifest, reference=str(reference))

    def file_dropped(self, digest: str) -> None:
        """A file left the disk cache; what it belonged to is not complete here any more."""
        for version in [version for version, kept in self._kept.items() if digest in kept.files]:
            self._remove(version)

    def named_by_others(self, digest: str) -> set[str]:
        """Digests of all files of the versions that have a file here, but for this one's."""
        return {file for version, kept in self._kept.items() if version != digest for file in kept.files}

    def _add(self, reference: Reference, manifest: Manifest, signatures: tuple[bytes, ...]) -> Version:
        self._policy.check(reference.adapter, manifest.digest, signatures)
        self._versions[reference] = Version(manifest.digest, manifest, reference=str(reference))
        self._signatures[reference] = signatures
        if len(self._versions) > _MAX_KNOWN:
            oldest, _ = self._versions.popitem(last=False)
            del self._signatures[oldest]
        return self._versions[reference]

    def _kept_record(self, reference: Reference) -> _Record | None:
        kept = self._kept.get(reference.digest or "")
        return self._read(reference.digest or "") if kept and reference.adapter in kept.adapters else None

    def _write(self, record: _Record) -> None:
        write_whole(self._path(record.manifest.digest), record.to_json())
        self._kept[record.manifest.digest] = _kept(record)

    def _remove(self, digest: str) -> None:
        del self._kept[digest]
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest.removeprefix('sha256:')}.json"

    def _read(self, digest: str) -> _Record | None:
        """What lies on disk under a digest, None where it is not borne out."""
        try:
            record = _Record.from_json(self._path(digest).read_bytes())
        except (OSError, ValueError, TypeError, KeyError, AttributeError, LorryError):
            return None
        return record if digest_of(record.manifest.canonical_json()) == digest else None


def _kept(record: _Record) -> _Kept:
    return _Kept(_files(record.manifest), record.adapters)


def _files(manifest: Manifest) -> frozenset[str]:
    # What serving needs, and so what is fetched: no README.
    own = [file for file in manifest.files if file.name in {CONFIG_NAME, WEIGHTS_NAME}]
    return frozenset(file.digest for file in (*own, *wording_of(manifest)))
