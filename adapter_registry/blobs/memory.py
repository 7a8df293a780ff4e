"""Blobs in a dictionary: for tests and for trying things out.

Owns the bytes for as long as the process lives. Does not know files or networks, so nothing in it
can be unavailable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from adapter_registry.blobs.intake import AlreadyVisible, Intake, check_size, span
from adapter_registry.blobs.protocol import Progress, Upload
from lorry.errors import BlobNotFound
from lorry.format.digest import Hasher, check_digest


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
        self._blobs: dict[str, bytes] = {}
        # What broken uploads left. An open upload's bytes are its own and not in here.
        self._kept: dict[str, bytearray] = {}

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not visible, in order. Raises InvalidDigest."""
        with self._lock:
            return [digest for digest in digests if check_digest(digest) not in self._blobs]

    def progress(self, digest: str) -> Progress:
        """How far an upload came. Raises InvalidDigest."""
        check_digest(digest)
        with self._lock:
            if digest in self._blobs:
                return Progress(len(self._blobs[digest]), complete=True)
            return Progress(len(self._kept.get(digest, b"")), complete=False)

    def upload(self, digest: str, size: int) -> Upload:
        """Begin or go on. Raises InvalidDigest, BlobTooLarge."""
        check_digest(digest)
        check_size(size)
        with self._lock:
            if digest in self._blobs:
                return AlreadyVisible(len(self._blobs[digest]))
            kept = self._kept.pop(digest, bytearray())
        return _MemoryUpload(self, digest, size, kept if len(kept) <= size else bytearray())

    def open(self, digest: str) -> MemoryBlob:
        """Open a visible blob. Raises InvalidDigest, BlobNotFound."""
        check_digest(digest)
        with self._lock:
            if digest not in self._blobs:
                raise BlobNotFound(f"no blob {digest}")
            return MemoryBlob(self._blobs[digest])

    def delete(self, digest: str) -> None:
        """Remove a blob, if it is there. Raises InvalidDigest."""
        check_digest(digest)
        with self._lock:
            self._blobs.pop(digest, None)

    def probe(self) -> None:
        """Memory can always be written and read."""

    def publish(self, digest: str, data: bytes) -> None:
        """Make verified bytes visible."""
        with self._lock:
            self._blobs[digest] = data

    def keep(self, digest: str, data: bytearray) -> None:
        """Remember what a broken upload brought, unless another one brought more."""
        with self._lock:
            if len(data) > len(self._kept.get(digest, b"")):
                self._kept[digest] = data


class _MemoryUpload:
    """One blob on its way in: it alone holds `data` until it is published or kept."""

    existed = False

    def __init__(self, store: MemoryStore, digest: str, size: int, data: bytearray) -> None:
        hasher = Hasher()
        hasher.update(bytes(data))
        self._store = store
        self._data = data
        self._intake = Intake(digest, size, len(data), hasher)

    @property
    def committed(self) -> int:
        """Bytes taken so far."""
        return self._intake.committed

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Append a chunk. Raises OffsetMismatch, BlobTooLarge."""
        self._intake.admit(offset, data)
        self._data += data
        self._intake.took(data)

    def finish(self) -> None:
        """Verify and make visible. Raises UploadIncomplete, DigestMismatch."""
        self._intake.require_all()
        data, self._data = self._data, bytearray()
        self._intake.verify()
        self._store.publish(self._intake.digest, bytes(data))

    def close(self) -> None:
        """Let go; what came and was not finished is kept."""
        if self._data:
            self._store.keep(self._intake.digest, self._data)
