"""Blobs in an S3 bucket: `blobs/sha256/<hex>` when visible, parts under `uploads/sha256/<hex>` before.

Owns where objects lie and which broken upload a new one goes on with. The objects under `blobs/`
are the truth; nothing is remembered here but which uploads this process has open. Does not know
adapters, versions or SQL.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import takewhile

from adapter_registry.blobs.intake import AlreadyVisible, check_size, hex_of, span
from adapter_registry.blobs.protocol import Progress, Upload
from adapter_registry.blobs.s3_bucket import Bucket, Part, S3Settings
from adapter_registry.blobs.s3_upload import PART_BYTES, PartsUpload, SmallUpload, Staged
from lorry.errors import BlobNotFound, StorageUnavailable

# A look-up waits for the network: 1,000 of 2 ms each are 0.25 s with this many at once.
_LOOKUPS = 8


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
        self._lock = threading.Lock()
        self._bucket_seen = False
        # Ids of the multipart uploads that a thread of this process writes to.
        self._open: set[str] = set()

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not visible, in order. Raises InvalidDigest, StorageUnavailable."""
        keys = [_blob_key(digest) for digest in digests]
        with ThreadPoolExecutor(_LOOKUPS) as pool:
            sizes = pool.map(self._bucket.size_of, keys)
            return [digest for digest, size in zip(digests, sizes, strict=True) if size is None]

    def progress(self, digest: str) -> Progress:
        """How far an upload came, in whole parts. Raises InvalidDigest, StorageUnavailable."""
        visible = self._bucket.size_of(_blob_key(digest))
        if visible is not None:
            return Progress(visible, complete=True)
        staging = _staging_key(digest)
        kept = [_length(self._whole_parts(staging, upload)) for upload in self._bucket.uploads(staging)]
        return Progress(max(kept, default=0), complete=False)

    def upload(self, digest: str, size: int) -> Upload:
        """Begin or go on. Raises InvalidDigest, BlobTooLarge, StorageUnavailable."""
        check_size(size)
        key = _blob_key(digest)
        self._ensure_bucket()
        visible = self._bucket.size_of(key)
        if visible is not None:
            return AlreadyVisible(visible)
        if size <= PART_BYTES:
            return SmallUpload(self._bucket, key, digest, size)
        staged = self._take(_staging_key(digest), size)
        released = partial(self._open.discard, staged.upload)
        return PartsUpload(self._bucket, key, staged, digest, size, released)

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

    def probe(self) -> None:
        """Create the bucket if need be; write, read and remove an object. Raises StorageUnavailable."""
        self._bucket.ensure()
        key, data = f"probe/{uuid.uuid4().hex}", b"probe"
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
                    self._open.add(upload)
                    return Staged(staging, upload, parts)
        upload = self._bucket.begin(staging)
        self._open.add(upload)
        return Staged(staging, upload, [])

    def _whole_parts(self, staging: str, upload: str) -> list[Part]:
        """Parts 1, 2, ... as long as they are of full size: what can be gone on from."""
        found = enumerate(self._bucket.parts(staging, upload), start=1)
        return [
            part for _, part in takewhile(lambda each: each[1].number == each[0] and each[1].size == PART_BYTES, found)
        ]


def _blob_key(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _staging_key(digest: str) -> str:
    return f"uploads/sha256/{hex_of(digest)}"


def _length(parts: list[Part]) -> int:
    return sum(part.size for part in parts)
