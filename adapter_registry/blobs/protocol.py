"""What a blob store is: bytes by digest, invisible until they hash to it.

Owns the Protocols that every driver obeys and tests/suites/blob_store.py executes. Does not know
adapters, versions, SQL or the wire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

# The most that one S3 CopyObject moves (AWS, "Copying objects": 5 GiB); the S3 store puts a damaged blob
# aside with such a copy, and a blob that one driver takes must fit the others.
MAX_BLOB_BYTES = 5 << 30
# A blob is also known by the BLAKE3 of each MiB of it, so that a range can be checked on its way out.
# One chunk on the wire is one block; 5 GiB are 160 KiB of such hashes.
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload came. `committed` bytes are kept; `complete` means visible."""

    committed: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as the storage lists it. size: bytes; modified: when it became visible, or was put aside, with a
    time zone.
    """

    digest: str
    size: int
    modified: datetime


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

    @property
    def blocks(self) -> bytes:
        """After `finish`: BLAKE3 of each block of BLOCK_BYTES (the last may be shorter), 32 bytes each,
        side by side, of the very bytes that were verified. Empty where the blob existed.
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
    """The store. Every method may be called from any thread.

    owner: whose upload it is, a name of 1 to 63 of `a-z 0-9 . _ -` with a letter or digit at both ends,
    or "". What a broken upload left is gone on from by its owner alone; a finished blob is everybody's.
    Every method raises StorageUnavailable, those with a digest InvalidDigest, those with an owner
    InvalidName.
    """

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those of the digests that are not visible, in order."""

    def progress(self, digest: str, owner: str = "", *, hidden: bool = False) -> Progress:
        """How far the owner's upload of the digest came; `hidden` as with `upload`."""

    def upload(self, digest: str, size: int, owner: str = "", *, hidden: bool = False) -> Upload:
        """Begin an upload, or go on with the owner's broken one; `committed` of it says from where.

        hidden: as if no blob of the digest were visible, so that somebody who may not know of it has
        to bring, and have verified, every byte as for a new one; the blob is replaced by its equal.

        Two uploads of one digest at the same time both succeed. Raises InvalidInput, BlobTooLarge
        (beyond MAX_BLOB_BYTES).
        """

    def open(self, digest: str) -> Blob:
        """Open a visible blob. Raises BlobNotFound."""

    def delete(self, digest: str) -> None:
        """Remove a blob; nothing happens where there is none. Open readers may go on or fail."""

    def blobs(self) -> Iterator[Stored]:
        """Every visible blob, in any order, read from the storage as the caller goes on.

        One that comes or goes meanwhile may be in it or not.
        """

    def sweep_uploads(self, before: datetime, *, dry_run: bool = False) -> int:
        """Remove what broken uploads and probes left, where nobody wrote to it since `before`, and
        say how many were removed, or with `dry_run` would be. An upload that this process has open is
        never touched.
        """

    def quarantine(self, digest: str) -> bool:
        """Take a damaged blob out of sight, so that the same digest can be uploaded again.

        Its bytes are hashed once more first: a sound blob (the damage was a reader's, or the blob
        was replaced meanwhile) stays. True where a damaged blob was visible and is not any more.
        """

    def quarantined(self) -> Iterator[Stored]:
        """The blobs in quarantine, in any order."""

    def discard(self, digest: str) -> None:
        """Remove a damaged blob from quarantine, if it is there; a visible one of that digest stays."""

    def probe(self) -> None:
        """Prove that the store can be written and read."""
