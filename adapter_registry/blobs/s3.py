"""Blobs in an S3 bucket: `blobs/sha256/<hex>` when visible, parts under `uploads/[<owner>/]sha256/<hex>` before.

Owns where objects lie and which broken upload a new one goes on with. The objects under `blobs/`
are the truth; nothing is remembered here but which uploads this process has open. Damaged blobs lie
under `quarantine/sha256/<hex>`. Does not know adapters, versions or SQL.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from itertools import chain, takewhile

from adapter_registry.blobs.intake import (
    AlreadyVisible,
    HeldUpload,
    check_owner,
    check_size,
    digest_named,
    hex_of,
    span,
)
from adapter_registry.blobs.protocol import Progress, Stored, Upload
from adapter_registry.blobs.s3_bucket import Begun, Bucket, Head, Part, S3Settings
from adapter_registry.blobs.s3_parts import PART_BYTES, Lender, Staged
from adapter_registry.blobs.s3_upload import PartsUpload, Target
from lorry.errors import BlobNotFound, StorageUnavailable
from lorry.format.digest import Hasher

# A look-up waits for the network: 1,000 of 2 ms each are 0.25 s with this many at once.
_LOOKUPS = 8
_READ_BYTES = 1 << 20
_BLOBS, _UPLOADS, _QUARANTINE, _PROBES = "blobs/sha256/", "uploads/", "quarantine/sha256/", "probe/"


class S3Blob:
    """A visible blob. Each read is a request of its own, so nothing is held between them."""

    def __init__(self, bucket: Bucket, key: str, size: int) -> None:
        self._bucket = bucket
        self._key = key
        self._size = size

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def chunks(self, offset: int, limit: int, chunk: int) -> Iterator[bytes]:
        """The bytes in pieces. Raises OutOfRange, StorageUnavailable, and BlobNotFound where it was deleted since."""
        return self._bucket.read(self._key, span(self._size, offset, limit), chunk)

    def close(self) -> None:
        """Nothing is held."""


class S3Store:
    """A BlobStore in one bucket. Several processes may use the same bucket."""

    def __init__(self, bucket: str, prefix: str, settings: S3Settings) -> None:
        """Nothing is asked of the server yet; the first upload or probe creates the bucket."""
        self._bucket = Bucket(bucket, prefix, settings)
        self._lender = Lender()
        self._lock = threading.Lock()
        self._bucket_seen = False
        # The multipart uploads that a thread of this process writes to, and their staging keys.
        self._open: dict[str, str] = {}

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not visible, in order. Raises InvalidDigest, StorageUnavailable."""
        keys = [_blob_key(digest) for digest in digests]
        with ThreadPoolExecutor(_LOOKUPS) as pool:
            sizes = pool.map(self._bucket.size_of, keys)
            return [digest for digest, size in zip(digests, sizes, strict=True) if size is None]

    def progress(self, digest: str, owner: str = "", *, hidden: bool = False) -> Progress:
        """How far the owner's upload came, in whole parts. Raises InvalidDigest, InvalidName, StorageUnavailable."""
        staging = _staging_key(digest, owner)
        visible = None if hidden else self._bucket.size_of(_blob_key(digest))
        if visible is not None:
            return Progress(visible, complete=True)
        kept = [_length(self._whole_parts(staging, upload)) for upload in self._bucket.uploads(staging)]
        return Progress(max(kept, default=0), complete=False)

    def upload(self, digest: str, size: int, owner: str = "", *, hidden: bool = False) -> Upload:
        """Begin or go on. Raises InvalidDigest, InvalidName, InvalidInput, BlobTooLarge, StorageUnavailable."""
        check_size(size)
        key, staging = _blob_key(digest), _staging_key(digest, owner)
        self._ensure_bucket()
        visible = None if hidden else self._bucket.size_of(key)
        if visible is not None:
            return AlreadyVisible(visible)
        if size <= PART_BYTES:
            # Nothing is kept of a broken one: S3 keeps whole parts alone.
            return HeldUpload(digest, size, bytearray(), store=partial(self._put, digest), keep=lambda _: None)
        staged = self._take(staging, size)
        released = partial(self._open.pop, staged.upload)
        return PartsUpload(self._bucket, staged, Target(key, digest, size, hidden=hidden), self._lender, released)

    def _put(self, digest: str, data: bytearray) -> None:
        self._bucket.put(_blob_key(digest), data, base64.b64encode(bytes.fromhex(hex_of(digest))).decode())

    def open(self, digest: str) -> S3Blob:
        """Open a visible blob. Raises InvalidDigest, BlobNotFound, StorageUnavailable."""
        key = _blob_key(digest)
        size = self._bucket.size_of(key)
        if size is None:
            raise BlobNotFound(f"no blob {digest}")
        return S3Blob(self._bucket, key, size)

    def delete(self, digest: str) -> None:
        """Remove a blob, if it is there. Raises InvalidDigest, StorageUnavailable."""
        self._bucket.delete(_blob_key(digest))

    def blobs(self) -> Iterator[Stored]:
        """Every visible blob, page after page. Raises StorageUnavailable."""
        return self._listed(_BLOBS)

    def _listed(self, folder: str) -> Iterator[Stored]:
        for found in self._bucket.objects(folder):
            digest = digest_named(found.key.removeprefix(folder))
            if digest is not None:
                yield Stored(digest, found.size, found.modified)

    def sweep_uploads(self, before: datetime, *, dry_run: bool = False) -> int:
        """Remove multipart uploads, staging objects and probes; times are the server's. Raises StorageUnavailable."""
        old = (begun for begun in self._bucket.begun(_UPLOADS) if begun.since < before)
        parts = sum(self._sweep(begun, before, dry_run=dry_run) for begun in old)
        stray = 0
        for found in chain(self._bucket.objects(_UPLOADS), self._bucket.objects(_PROBES)):
            if found.modified < before and found.key not in self._open.values():
                stray += 1
                if not dry_run:
                    self._bucket.delete(found.key)
        return parts + stray

    def _sweep(self, begun: Begun, before: datetime, *, dry_run: bool) -> bool:
        with self._lock:
            if begun.upload in self._open:
                return False
            self._open[begun.upload] = begun.key
        try:
            last = self._bucket.last_sent(begun.key, begun.upload)
            old = last is None or last < before
            if old and not dry_run:
                self._bucket.abort(begun.key, begun.upload)
            return old
        finally:
            del self._open[begun.upload]

    def quarantine(self, digest: str) -> bool:
        """Move a damaged blob to `quarantine/`. Raises InvalidDigest, StorageUnavailable.

        Damaged is what comes wrong twice in the same way: what the network damages comes wrong in another
        way each time.
        """
        key = _blob_key(digest)
        found = self._hashed(key)
        if found is None or found[1] == digest:
            return False
        if self._hashed(key) != found:
            raise StorageUnavailable(f"blob {digest}: S3 sends other bytes each time")
        self._bucket.copy(key, _QUARANTINE + hex_of(digest), found[0].etag)
        self._bucket.delete(key)
        return True

    def _hashed(self, key: str) -> tuple[Head, str] | None:
        """An object and the digest of its bytes; None where there is none."""
        head = self._bucket.head(key)
        if head is None:
            return None
        hasher = Hasher()
        for piece in self._bucket.read(key, range(head.size), _READ_BYTES, head.etag):
            hasher.update(piece)
        return head, hasher.digest

    def quarantined(self) -> Iterator[Stored]:
        """The damaged blobs. Raises StorageUnavailable."""
        return self._listed(_QUARANTINE)

    def discard(self, digest: str) -> None:
        """Remove a damaged blob, if it is there. Raises InvalidDigest, StorageUnavailable."""
        self._bucket.delete(_QUARANTINE + hex_of(digest))

    def probe(self) -> None:
        """Create the bucket if need be; write, read and remove an object. Raises StorageUnavailable."""
        self._bucket.ensure()
        key, data = f"{_PROBES}{uuid.uuid4().hex}", b"probe"
        self._bucket.put(key, bytearray(data), base64.b64encode(hashlib.sha256(data).digest()).decode())
        try:
            read = b"".join(self._bucket.read(key, range(len(data)), len(data)))
        except BlobNotFound as error:
            raise StorageUnavailable("S3 took a probe and does not have it") from error
        self._bucket.delete(key)
        if read != data:
            raise StorageUnavailable(f"wrote {data!r} as a probe, read {read!r}")

    def _ensure_bucket(self) -> None:
        """Once; before it worked, every upload tries again, so that S3 may come up after us."""
        if not self._bucket_seen:
            self._bucket.ensure()
            self._bucket_seen = True

    def _take(self, staging: str, size: int) -> Staged:
        """The broken upload that came farthest and nobody here writes to, or a new one."""
        kept = [(upload, self._whole_parts(staging, upload)) for upload in self._bucket.uploads(staging)]
        kept.sort(key=lambda found: _length(found[1]), reverse=True)
        with self._lock:
            for upload, parts in kept:
                # Longer than announced now: left by somebody who announced more, so not these bytes.
                if upload not in self._open and _length(parts) <= size:
                    self._open[upload] = staging
                    return Staged(staging, upload, parts)
        upload = self._bucket.begin(staging)
        self._open[upload] = staging
        return Staged(staging, upload, [])

    def _whole_parts(self, staging: str, upload: str) -> list[Part]:
        """Parts 1, 2, ... as long as they are of full size: what can be gone on from."""
        found = enumerate(self._bucket.parts(staging, upload), start=1)
        return [
            part for _, part in takewhile(lambda each: each[1].number == each[0] and each[1].size == PART_BYTES, found)
        ]


def _blob_key(digest: str) -> str:
    return _BLOBS + hex_of(digest)


def _staging_key(digest: str, owner: str) -> str:
    folder = f"{check_owner(owner)}/" if owner else ""
    return f"{_UPLOADS}{folder}sha256/{hex_of(digest)}"


def _length(parts: list[Part]) -> int:
    return sum(part.size for part in parts)
