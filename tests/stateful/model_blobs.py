"""Blobs in the model: pieces in, claims, quotas, damage.

Owns what an upload leaves behind when it is cut, and which namespace pays for which bytes.
"""

from __future__ import annotations

from lorry.errors import (
    BlobNotFound,
    CorruptBlob,
    DigestMismatch,
    InvalidFieldMask,
    OffsetMismatch,
    OutOfRange,
    QuotaExceeded,
    RevisionConflict,
    UploadIncomplete,
)
from lorry.format.digest import digest_of
from tests.stateful.model_state import Space, State


class Blobs(State):
    """What BlobService and namespaces do. granule: cut uploads are kept in whole pieces of so many bytes."""

    granule = 1

    def there(self, digest: str) -> bool:
        return digest in self.blobs and digest not in self.damaged

    def missing(self, digests: list[str]) -> list[str]:
        return [digest for digest in digests if not self.there(digest)]

    def progress(self, namespace: str, digest: str) -> tuple[int, bool]:
        if self.there(digest):
            return len(self.blobs[digest]), True
        return len(self.uploads.get((namespace, digest), b"")), False

    def used_bytes(self, namespace: str) -> int:
        return sum(len(self.blobs[digest]) for digest in self.space(namespace).claims)

    def require_room(self, namespace: str, sizes: dict[str, int]) -> None:
        """Raise QuotaExceeded where the namespace cannot claim these too."""
        space = self.space(namespace)
        asked = sum(size for digest, size in sizes.items() if digest not in space.claims)
        self.require_bytes(namespace, asked)

    def require_bytes(self, namespace: str, asked: int) -> None:
        space = self.space(namespace)
        used = self.used_bytes(namespace) + sum(space.uploading.values())
        if asked > 0 and space.max_bytes and used + asked > space.max_bytes:
            raise QuotaExceeded("")

    def upload(self, namespace: str, digest: str, size: int, offset: int, data: bytes, *, finish: bool) -> bool:
        """One stream of a header, a chunk (where it is not empty) and perhaps a finish; whether the blob existed."""
        space = self.space(namespace)
        if self.there(digest):
            self.require_room(namespace, {digest: size})
            space.claims.add(digest)
            return True
        metered = space.max_bytes and digest not in space.claims
        if metered:
            self.require_bytes(namespace, size - space.uploading.get(digest, 0))
            space.uploading[digest] = size
        try:
            self._take(namespace, digest, size, offset, data, finish=finish)
            space.uploading.pop(digest, None)
        finally:
            if metered and (left := len(self.uploads.get((namespace, digest), b""))):
                space.uploading[digest] = left
            elif metered:
                space.uploading.pop(digest, None)
        return False

    def _take(self, namespace: str, digest: str, size: int, offset: int, data: bytes, *, finish: bool) -> None:
        kept = self.uploads.get((namespace, digest), b"")
        if data:
            if offset != len(kept):
                raise OffsetMismatch("", committed_bytes=str(len(kept)))
            kept += data
        whole = finish and len(kept) == size
        left = kept[: len(kept) // self.granule * self.granule]
        self.uploads[namespace, digest] = b"" if whole else left
        if not whole:
            raise UploadIncomplete("", **({"committed_bytes": str(len(kept))} if finish else {}))
        if digest_of(kept) != digest:
            raise DigestMismatch("")
        self._store(namespace, digest, kept)

    def send(self, namespace: str, data: bytes) -> None:
        """The SDK's upload: from where it was cut, to the end; nothing where the blob is complete."""
        digest = digest_of(data)
        kept, complete = self.progress(namespace, digest)
        if not complete:
            self.upload(namespace, digest, len(data), kept, data[kept:], finish=True)

    def _store(self, namespace: str, digest: str, data: bytes) -> None:
        self.blobs[digest] = data
        self.damaged.discard(digest)
        self.space(namespace).claims.add(digest)

    def read(self, digest: str, offset: int, limit: int) -> bytes:
        if digest not in self.blobs:
            raise BlobNotFound("")
        if digest in self.damaged:
            raise CorruptBlob("")
        data = self.blobs[digest]
        if offset > len(data):
            raise OutOfRange("")
        return data[offset : offset + limit] if limit else data[offset:]

    def namers(self, digest: str) -> list[str]:
        named = [
            f"{adapter.key[0]}/{adapter.key[1]}@{version.number}"
            for adapter, version in self.everything()
            if digest in {file.digest for file in version.manifest.files}
        ]
        return sorted(named)

    def spoil(self, digest: str) -> list[tuple[str, str, list[str]]]:
        """A stored byte flips and a check finds it, beside what was put aside before."""
        found = [("QUARANTINED", other, self.namers(other)) for other in self.damaged]
        if digest:
            found.append(("CORRUPT", digest, self.namers(digest)))
            self.damaged.add(digest)
        return sorted(found)

    def limit(self, name: str, max_bytes: int | None, max_versions: int | None, revision: int) -> tuple[object, ...]:
        space = self.space(name)
        if max_bytes is None and max_versions is None:
            raise InvalidFieldMask("")
        if revision and revision != space.revision:
            raise RevisionConflict("", revision=str(space.revision))
        space.max_bytes = space.max_bytes if max_bytes is None else max_bytes
        space.max_versions = space.max_versions if max_versions is None else max_versions
        space.revision += 1
        return self.namespace(name)

    def namespace(self, name: str) -> tuple[object, ...]:
        space = self.spaces.get(name, Space())
        adapters = [adapter for adapter in self.alive() if adapter.key[0] == name]
        versions = sum(len(adapter.versions) for adapter in adapters)
        used, coming = self.used_bytes(name), sum(space.uploading.values())
        return (name, space.max_bytes, space.max_versions, space.revision, used, coming, versions, len(adapters))
