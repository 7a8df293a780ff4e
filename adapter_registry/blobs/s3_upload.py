"""A blob on its way into S3: in one PUT where a part holds it, else in parts.

Owns the order that keeps unverified bytes invisible: parts to a staging key, complete, verify, copy
to the blob's own key under the etag that was verified, delete the staging object. Does not know how
an upload is found again, nor how S3 is spoken to.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapter_registry.blobs.intake import Intake, hex_of
from adapter_registry.blobs.s3_bucket import Bucket, Part
from lorry.errors import BlobNotFound, DigestMismatch, StorageUnavailable
from lorry.format.digest import Hasher

# The client's and AWS's usual part; 5 GiB are 640 of them, S3 takes 10,000.
PART_BYTES = 8 << 20
_READ_BYTES = 1 << 20

_log = logging.getLogger(__name__)


class SmallUpload:
    """A blob of at most one part: held in memory, verified, then stored whole."""

    existed = False

    def __init__(self, bucket: Bucket, key: str, digest: str, size: int) -> None:
        self._bucket = bucket
        self._key = key
        self._data = bytearray()
        self._intake = Intake(digest, size, 0, Hasher())

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
        """Verify and store. Raises UploadIncomplete, DigestMismatch, StorageUnavailable."""
        self._intake.require_all()
        self._intake.verify()
        sha256 = base64.b64encode(bytes.fromhex(hex_of(self._intake.digest))).decode()
        self._bucket.put(self._key, self._data, sha256)

    def close(self) -> None:
        """Let go. Nothing is kept: S3 keeps whole parts alone."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A multipart upload under its staging key. parts: the whole ones that S3 has, from the first on."""

    key: str
    upload: str
    parts: list[Part]


class PartsUpload:
    """A blob of several parts, begun here or gone on with. released: called once at the end."""

    existed = False

    def __init__(
        self, bucket: Bucket, key: str, staged: Staged, digest: str, size: int, released: Callable[[], None]
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._staged = staged
        self._parts = list(staged.parts)
        self._released = released
        self._buffer = bytearray()
        self._visible = False
        # Parts of an earlier stream were not hashed here: then the staging object is read again.
        kept = sum(part.size for part in staged.parts)
        self._intake = Intake(digest, size, kept, None if kept else Hasher())

    @property
    def committed(self) -> int:
        """Bytes taken so far; of them S3 keeps the whole parts."""
        return self._intake.committed

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Append a chunk. Raises OffsetMismatch, BlobTooLarge, StorageUnavailable."""
        self._intake.admit(offset, data)
        rest = memoryview(data)
        with self._unless_visible():
            while rest and not self._visible:
                taken = rest[: PART_BYTES - len(self._buffer)]
                self._buffer += taken
                rest = rest[len(taken) :]
                if len(self._buffer) == PART_BYTES:
                    self._send()
        self._intake.took(data)

    def _send(self) -> None:
        number = len(self._parts) + 1
        self._parts.append(self._bucket.send(self._staged.key, self._staged.upload, number, self._buffer))
        self._buffer = bytearray()

    def finish(self) -> None:
        """Complete, verify, copy. Raises UploadIncomplete, DigestMismatch, StorageUnavailable."""
        self._intake.require_all()
        with self._unless_visible():
            if not self._visible:
                self._publish()
        self._sweep()

    def _publish(self) -> None:
        try:
            seen = self._intake.verify()
        except DigestMismatch:
            self._bucket.abort(self._staged.key, self._staged.upload)
            raise
        if self._buffer:
            self._send()
        etag = self._bucket.complete(self._staged.key, self._staged.upload, self._parts)
        if not seen:
            self._verify_stored(etag)
        self._bucket.copy(self._staged.key, self._key, etag)

    def _verify_stored(self, etag: str) -> None:
        """Hash what the parts became. Raises DigestMismatch, StorageUnavailable."""
        hasher = Hasher()
        for piece in self._bucket.read(self._staged.key, range(self._intake.size), _READ_BYTES, etag):
            hasher.update(piece)
        try:
            hasher.verify(self._intake.digest)
        except DigestMismatch:
            self._bucket.delete(self._staged.key)
            raise

    def _sweep(self) -> None:
        """Remove what is left under the staging key; the blob is visible, so failing is no error."""
        try:
            self._bucket.delete(self._staged.key)
        except StorageUnavailable as error:
            _log.warning("a staging object of %s stays behind: %s", self._intake.digest, error.message)

    @contextmanager
    def _unless_visible(self) -> Iterator[None]:
        """Another upload of the digest, even on the same parts, may finish first: then this one has too."""
        try:
            yield
        except (StorageUnavailable, BlobNotFound) as error:
            if self._bucket.size_of(self._key) is None:
                raise StorageUnavailable(error.message) from error
            self._visible = True

    def close(self) -> None:
        """Let go. Whole parts that S3 has are kept for resumption."""
        self._released()
