"""A blob of several parts on its way into S3.

Owns the order that keeps unverified bytes invisible and verified ones from being swept: parts to a key
that was never used, a marker announced, the parts completed, verified, the marker made. Does not know how
an upload is found again, nor how S3 is spoken to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapter_registry.blobs.intake import Intake
from adapter_registry.blobs.s3_bucket import Bucket
from adapter_registry.blobs.s3_parts import Lender, PartSender, Staged
from adapter_registry.blobs.s3_places import Marker, locate, visible_size
from adapter_registry.blobs.s3_sweep import OpenUploads
from adapter_registry.blobs.sums import Sums
from lorry.errors import BlobNotFound, DigestMismatch, LorryError, StorageUnavailable

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """What the parts become. hidden: whether one that is there already counts for nothing."""

    digest: str
    size: int
    hidden: bool


class PartsUpload:
    """A blob of several parts, begun here or gone on with. opened: has its upload, which is dropped at the end."""

    existed = False

    def __init__(self, bucket: Bucket, staged: Staged, target: Target, lender: Lender, opened: OpenUploads) -> None:
        self._bucket = bucket
        self._target = target
        self._staged = staged
        self._sender = PartSender(bucket, staged, lender)
        self._open = opened
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
        """Complete, verify, name. Raises UploadIncomplete, DigestMismatch, StorageUnavailable."""
        self._intake.require_all()
        with self._unless_visible():
            self._sender.settle()
        self._verify_sent()
        with self._unless_visible():
            if not self._visible:
                self._publish()
        if self._intake.sums is None:
            self._intake.sums = self._verified_visible()

    def _verify_sent(self) -> None:
        try:
            self._intake.verify()
        except DigestMismatch:
            self._bucket.abort(self._staged.key, self._staged.upload)
            raise

    def _publish(self) -> None:
        marker = Marker(self._bucket, self._target.digest, self._staged.key, self._target.size)
        with self._open.held(marker.upload, marker.key):
            try:
                self._store()
            except LorryError:
                marker.call_off()
                raise
            marker.make()

    def _store(self) -> None:
        """From here on the bytes are there and are right, though nothing names them."""
        etag = self._sender.complete()
        if self._intake.sums is None:
            try:
                self._intake.sums = self._verified(self._staged.key, etag)
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

    def _verified_visible(self) -> Sums:
        """Sums of what another upload of the digest made visible."""
        located = locate(self._bucket, self._target.digest)
        if located is None:
            raise StorageUnavailable(f"blob {self._target.digest} was visible and is not any more")
        return self._verified(located.key)

    @contextmanager
    def _unless_visible(self) -> Iterator[None]:
        """Another upload of the digest, even on the same parts, may finish first: then this one has too."""
        try:
            yield
        except (StorageUnavailable, BlobNotFound) as error:
            if self._target.hidden or visible_size(self._bucket, self._target.digest) is None:
                raise StorageUnavailable(error.message) from error
            self._visible = True

    def close(self) -> None:
        """Let go. Whole parts that S3 has are kept for resumption."""
        self._sender.close()
        self._open.drop(self._staged.upload)
