"""What a blob store is: bytes by digest, invisible until they hash to it.

Owns the Protocols that every driver obeys and tests/suites/blob_store.py executes. Does not know
adapters, versions, SQL or the wire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

# The most that one S3 CopyObject moves (AWS, "Copying objects": 5 GiB); the S3 store ends an upload
# with such a copy, and a blob that one driver takes must fit the others.
MAX_BLOB_BYTES = 5 << 30


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload came. `committed` bytes are kept; `complete` means visible."""

    committed: int
    complete: bool


class Upload(Protocol):
    """One blob on its way in. Used by one thread at a time; closed exactly once.

    Of no further use once it raised StorageUnavailable: close it and open another, which goes on
    from what was kept.
    """

    @property
    def committed(self) -> int:
        """Bytes taken so far: the offset of the next chunk."""

    @property
    def existed(self) -> bool:
        """True where the blob was visible already when the upload was opened.

        Then chunks are dropped unread and `finish` has nothing to do.
        """

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Append a chunk. Raises OffsetMismatch, BlobTooLarge, StorageUnavailable."""

    def finish(self) -> None:
        """Verify, make durable, make visible, in this order.

        Raises UploadIncomplete (what came is kept), DigestMismatch (what came is thrown away),
        StorageUnavailable.
        """

    def close(self) -> None:
        """Let go. What came and was not finished is kept for resumption."""


class Blob(Protocol):
    """A visible blob, open for reading; many may be open at once."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def chunks(self, offset: int, limit: int, chunk: int) -> Iterator[bytes | memoryview]:
        """Bytes [offset, offset + limit) in pieces of `chunk` bytes; limit 0 means up to the end.

        Raises OutOfRange, StorageUnavailable.
        """

    def close(self) -> None:
        """Let go."""


class BlobStore(Protocol):
    """The store. Every method may be called from any thread."""

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those of the digests that are not visible, in order."""

    def progress(self, digest: str) -> Progress:
        """How far an upload of the digest came."""

    def upload(self, digest: str, size: int) -> Upload:
        """Begin an upload, or go on with a broken one; `committed` of it says from where.

        Two uploads of one digest at the same time both succeed. Raises InvalidDigest, BlobTooLarge
        (beyond MAX_BLOB_BYTES), StorageUnavailable.
        """

    def open(self, digest: str) -> Blob:
        """Open a visible blob. Raises BlobNotFound, StorageUnavailable."""

    def delete(self, digest: str) -> None:
        """Remove a blob; nothing happens where there is none."""

    def probe(self) -> None:
        """Prove that the store can be written and read. Raises StorageUnavailable."""
