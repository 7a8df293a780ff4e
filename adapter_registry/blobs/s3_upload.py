"""A blob of several parts on its way into S3.

Owns the order that keeps unverified bytes invisible: parts to a staging key, complete, verify, copy
to the blob's own key under the etag that was verified, delete the staging object. Does not know how
an upload is found again, nor how S3 is spoken to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapter_registry.blobs.intake import Intake
from adapter_registry.blobs.s3_bucket import Bucket
from adapter_registry.blobs.s3_parts import Lender, PartSender, Staged
from adapter_registry.blobs.sums import Sums
from lorry.errors import BlobNotFound, DigestMismatch, StorageUnavailable

_READ_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What the parts become. hidden: whether one that is there already counts for nothing."""

    key: str
    digest: str
    size: int
    hidden: bool


class PartsUpload:
    """A blob of several parts, begun here or gone on with. released: called once at the end."""

    existed = False

    def __init__(
        self, bucket: Bucket, staged: Staged, target: Target, lender: Lender, released: Callable[[], object]
    ) -> None:
        self._bucket = bucket
        self._target = target
        self._staged = staged
        self._sender = PartSender(bucket, staged, lender)
        self._released = released
        self._visible = False
        # Parts of an earlier stream were not hashed here: then what is stored is read again.
        kept = sum(part.size for part in staged.parts)
        self._intake = Intake(target.digest, target.size, kept, None if kept else Sums())

    @property
    def committed(self) -> int:
        """Bytes taken so far; of them S3 keeps the whole parts."""
        return self._intake.committed

    @property
    def blocks(self) -> bytes:
        """Hashes of the blocks."""
        return self._intake.blocks

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Append a chunk. Raises OffsetMismatch, BlobTooLarge, StorageUnavailable."""
        self._intake.admit(offset, data)
        with self._unless_visible():
            if not self._visible:
                self._sender.add(data)
        self._intake.took(data)

    def finish(self) -> None:
        """Complete, verify, copy. Raises UploadIncomplete, DigestMismatch, StorageUnavailable."""
        self._intake.require_all()
        with self._unless_visible():
            self._sender.settle()
        self._verify_sent()
        with self._unless_visible():
            if not self._visible:
                self._publish()
        if self._intake.sums is None:
            self._intake.sums = self._verified(self._target.key)
        self._sweep()

    def _verify_sent(self) -> None:
        try:
            self._intake.verify()
        except DigestMismatch:
            self._bucket.abort(self._staged.key, self._staged.upload)
            raise

    def _publish(self) -> None:
        etag = self._sender.complete()
        if self._intake.sums is None:
            self._intake.sums = self._verify_staged(etag)
        self._bucket.copy(self._staged.key, self._target.key, etag)

    def _verify_staged(self, etag: str) -> Sums:
        try:
            return self._verified(self._staged.key, etag)
        except DigestMismatch:
            self._bucket.delete(self._staged.key)
            raise

    def _verified(self, key: str, etag: str | None = None) -> Sums:
        """Sums of a stored object that is this blob. Raises DigestMismatch, BlobNotFound, StorageUnavailable."""
        sums = Sums()
        for piece in self._bucket.read(key, range(self._intake.size), _READ_BYTES, etag):
            sums.update(piece)
        sums.verify(self._intake.digest)
        return sums

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
            if self._target.hidden or self._bucket.size_of(self._target.key) is None:
                raise StorageUnavailable(error.message) from error
            self._visible = True

    def close(self) -> None:
        """Let go. Whole parts that S3 has are kept for resumption."""
        self._sender.close()
        self._released()
