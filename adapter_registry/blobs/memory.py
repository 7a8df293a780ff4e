"""Blobs in a dictionary: for tests and for trying things out.

Owns the bytes for as long as the process lives. Does not know files or networks, so nothing in it
can be unavailable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from adapter_registry.blobs.intake import AlreadyVisible, HeldUpload, check_owner, check_size, span
from adapter_registry.blobs.protocol import Progress, Stored, Upload
from adapter_registry.blobs.sums import is_sound
from lorry.errors import BlobNotFound
from lorry.format.digest import check_digest


class MemoryBlob:
    """A visible blob, as the bytes themselves."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def chunks(self, offset: int, limit: int, chunk: int) -> Iterator[memoryview]:
        """Views of the bytes. Raises OutOfRange."""
        wanted = span(self.size, offset, limit)
        view = memoryview(self._data)
        return (view[start : min(start + chunk, wanted.stop)] for start in wanted[::chunk])

    def close(self) -> None:
        """Nothing is held that the garbage collector does not take."""


class MemoryStore:
    """A BlobStore that forgets everything with its process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Bytes, and since when they are visible.
        self._blobs: dict[str, tuple[bytes, datetime]] = {}
        # What broken uploads left, by digest and owner, and when. An open upload's bytes are not in here.
        self._kept: dict[tuple[str, str], tuple[bytearray, datetime]] = {}
        self._quarantine: dict[str, Stored] = {}

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not visible, in order. Raises InvalidDigest."""
        with self._lock:
            return [digest for digest in digests if check_digest(digest) not in self._blobs]

    def progress(self, digest: str, owner: str = "", *, hidden: bool = False) -> Progress:
        """How far the owner's upload came. Raises InvalidDigest, InvalidName."""
        key = check_digest(digest), check_owner(owner)
        with self._lock:
            if digest in self._blobs and not hidden:
                return Progress(len(self._blobs[digest][0]), complete=True)
            return Progress(len(self._kept[key][0]) if key in self._kept else 0, complete=False)

    def upload(self, digest: str, size: int, owner: str = "", *, hidden: bool = False) -> Upload:
        """Begin or go on. Raises InvalidDigest, InvalidName, InvalidInput, BlobTooLarge."""
        key = check_digest(digest), check_owner(owner)
        check_size(size)
        with self._lock:
            if digest in self._blobs and not hidden:
                return AlreadyVisible(len(self._blobs[digest][0]))
            kept, _ = self._kept.pop(key, (bytearray(), None))
        data = kept if len(kept) <= size else bytearray()
        return HeldUpload(digest, size, data, store=partial(self._publish, digest), keep=partial(self._keep, key))

    def open(self, digest: str) -> MemoryBlob:
        """Open a visible blob. Raises InvalidDigest, BlobNotFound."""
        check_digest(digest)
        with self._lock:
            if digest not in self._blobs:
                raise BlobNotFound(f"no blob {digest}")
            return MemoryBlob(self._blobs[digest][0])

    def delete(self, digest: str) -> None:
        """Remove a blob, if it is there. Raises InvalidDigest."""
        check_digest(digest)
        with self._lock:
            self._blobs.pop(digest, None)

    def blobs(self) -> Iterator[Stored]:
        """Those that are visible now."""
        with self._lock:
            return iter([Stored(digest, len(data), since) for digest, (data, since) in self._blobs.items()])

    def sweep_uploads(self, before: datetime, *, dry_run: bool = False) -> int:
        """Forget what was kept since before then, and say how many they were."""
        with self._lock:
            old = [key for key, (_, since) in self._kept.items() if since < before]
            for key in [] if dry_run else old:
                del self._kept[key]
            return len(old)

    def quarantine(self, digest: str) -> bool:
        """Take a damaged blob out of sight. Raises InvalidDigest."""
        check_digest(digest)
        with self._lock:
            if digest not in self._blobs or is_sound(digest, [self._blobs[digest][0]]):
                return False
            data, _ = self._blobs.pop(digest)
            self._quarantine[digest] = Stored(digest, len(data), datetime.now(UTC))
            return True

    def quarantined(self) -> Iterator[Stored]:
        """The damaged blobs, whose bytes are not kept."""
        with self._lock:
            return iter(list(self._quarantine.values()))

    def discard(self, digest: str) -> None:
        """Forget a damaged blob. Raises InvalidDigest."""
        check_digest(digest)
        with self._lock:
            self._quarantine.pop(digest, None)

    def probe(self) -> None:
        """Memory can always be written and read."""

    def _publish(self, digest: str, data: bytearray) -> None:
        with self._lock:
            self._blobs[digest] = bytes(data), datetime.now(UTC)

    def _keep(self, key: tuple[str, str], data: bytearray) -> None:
        """Remember what a broken upload brought, unless another one brought more."""
        with self._lock:
            if key not in self._kept or len(data) > len(self._kept[key][0]):
                self._kept[key] = data, datetime.now(UTC)
