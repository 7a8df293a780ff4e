"""A blob store with a cache of files in front of its reads.

Owns when a copy is kept: when a reader takes a whole blob, on its way; whoever comes meanwhile reads
past it. Every open asks the store first, so that a blob that is deleted or in quarantine is so here,
whichever process did it. Does not know what the store is, nor how copies are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adapter_registry.blobs.file_cache import FileCache
from adapter_registry.blobs.intake import span
from adapter_registry.blobs.protocol import Blob, BlobStore, Progress, Stored, Upload


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where copies lie, and how many bytes of them there may be."""

    folder: Path
    budget: int


class CachedBlob:
    """A visible blob: from the cache where it is kept, else from the store."""

    def __init__(self, blob: Blob, digest: str, cache: FileCache) -> None:
        self._blob = blob
        self._digest = digest
        self._cache = cache

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._blob.size

    def chunks(self, offset: int, limit: int, chunk: int) -> Iterator[bytes | memoryview]:
        """The bytes in pieces. Raises OutOfRange, and what the store raises."""
        return self._pieces(span(self.size, offset, limit), chunk)

    def _pieces(self, wanted: range, chunk: int) -> Iterator[bytes | memoryview]:
        if not wanted:
            return
        kept = self._cache.open(self._digest, self.size)
        if kept is not None:
            with closing(kept):
                yield from kept.chunks(wanted.start, len(wanted), chunk)
            return
        pieces = self._blob.chunks(wanted.start, len(wanted), chunk)
        filling = self._cache.fill(self._digest, self.size) if len(wanted) == self.size else None
        if filling is None:
            yield from pieces
            return
        with closing(filling):
            for piece in pieces:
                filling.write(piece)
                yield piece

    def close(self) -> None:
        """Let go."""
        self._blob.close()


class CachedStore:
    """A BlobStore that answers as the one behind it does, and reads from files what was read before."""

    def __init__(self, store: BlobStore, settings: CacheSettings) -> None:
        """Raises StorageUnavailable where the folder cannot be."""
        self._store = store
        self._cache = FileCache(settings.folder, settings.budget)

    @property
    def origin(self) -> BlobStore:
        """The store itself, for those who judge what it holds."""
        return self._store

    def open(self, digest: str) -> CachedBlob:
        """Open a visible blob. Raises InvalidDigest, BlobNotFound, StorageUnavailable."""
        return CachedBlob(self._store.open(digest), digest, self._cache)

    def delete(self, digest: str) -> None:
        """Remove a blob and its copy."""
        self._store.delete(digest)
        self._cache.drop(digest)

    def quarantine(self, digest: str) -> bool:
        """Take a damaged blob out of sight; its copy goes in any case: it may be what is damaged."""
        damaged = self._store.quarantine(digest)
        self._cache.drop(digest)
        return damaged

    def missing(self, digests: Sequence[str]) -> list[str]:
        """As the store."""
        return self._store.missing(digests)

    def progress(self, digest: str, owner: str = "", *, hidden: bool = False) -> Progress:
        """As the store."""
        return self._store.progress(digest, owner, hidden=hidden)

    def upload(self, digest: str, size: int, owner: str = "", *, hidden: bool = False) -> Upload:
        """As the store; what is uploaded is not kept before somebody reads it."""
        return self._store.upload(digest, size, owner, hidden=hidden)

    def blobs(self) -> Iterator[Stored]:
        """As the store."""
        return self._store.blobs()

    def sweep_uploads(self, before: datetime, *, dry_run: bool = False) -> int:
        """As the store."""
        return self._store.sweep_uploads(before, dry_run=dry_run)

    def quarantined(self) -> Iterator[Stored]:
        """As the store."""
        return self._store.quarantined()

    def discard(self, digest: str) -> None:
        """As the store."""
        self._store.discard(digest)

    def probe(self) -> None:
        """As the store: it works without the cache."""
        self._store.probe()
