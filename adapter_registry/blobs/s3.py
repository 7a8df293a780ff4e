"""Blobs in an S3 bucket: visible as `blobs/sha256/<hex>`, the bytes of large ones under `data/sha256/`.

Owns which broken upload a new one goes on with, reading, and putting damaged blobs aside, under
`quarantine/sha256/<hex>`. The objects under `blobs/` are the truth; nothing is remembered here but which
uploads this process has open. Does not know adapters, versions or SQL.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from itertools import takewhile

from adapter_registry.blobs import s3_places
from adapter_registry.blobs.intake import AlreadyVisible, HeldUpload, check_size, digest_named, hex_of, span
from adapter_registry.blobs.protocol import Progress, Stored, Upload
from adapter_registry.blobs.s3_bucket import Begun, Bucket, Head, Part, S3Settings
from adapter_registry.blobs.s3_parts import PART_BYTES, Lender, Staged
from adapter_registry.blobs.s3_places import QUARANTINE, Located, blob_key, locate, visible_size
from adapter_registry.blobs.s3_sweep import PROBES, OpenUploads, Sweep
from adapter_registry.blobs.s3_upload import PartsUpload, Target
from lorry.errors import BlobNotFound, StorageUnavailable
from lorry.format.digest import Hasher

# A look-up waits for the network: 1,000 of 2 ms each are 0.25 s with this many at once.
_LOOKUPS = 8
_READ_BYTES = 1 << 20


class S3Blob:
    """A visible blob. Each read is a request of its own, so nothing is held between them."""

    def __init__(self, bucket: Bucket, digest: str, located: Located) -> None:
        self._bucket = bucket
        self._digest = digest
        self._located = located

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._located.size

    def chunks(self, offset: int, limit: int, chunk: int) -> Iterator[bytes]:
        """The bytes in pieces. Raises OutOfRange, StorageUnavailable, and BlobNotFound where it was deleted since."""
        return self._pieces(span(self.size, offset, limit), chunk)

    def _pieces(self, wanted: range, chunk: int) -> Iterator[bytes]:
        try:
            yield from self._bucket.read(self._located.key, wanted, chunk)
        except BlobNotFound:
            # Sent again since, and named anew; then what was named before may be swept.
            moved = locate(self._bucket, self._digest)
            if moved is None or moved == self._located:
                raise
            self._located = moved
            yield from self._bucket.read(moved.key, wanted, chunk)

    def close(self) -> None:
        """Nothing is held."""


class S3Store:
    """A BlobStore in one bucket. Several processes may use the same bucket."""

    def __init__(self, bucket: str, prefix: str, settings: S3Settings) -> None:
        """Nothing is asked of the server yet; the first upload or probe creates the bucket."""
        self._bucket = Bucket(bucket, prefix, settings)
        self._lender = Lender()
        self._open = OpenUploads()
        self._bucket_seen = False

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not visible, in order. Raises InvalidDigest, StorageUnavailable."""
        with ThreadPoolExecutor(_LOOKUPS) as pool:
            sizes = pool.map(partial(visible_size, self._bucket), digests)
            return [digest for digest, size in zip(digests, sizes, strict=True) if size is None]

    def progress(self, digest: str, owner: str = "", *, hidden: bool = False) -> Progress:
        """How far the owner's upload came, in whole parts. Raises InvalidDigest, InvalidName, StorageUnavailable."""
        prefix = s3_places.data_prefix(digest, owner)
        visible = None if hidden else visible_size(self._bucket, digest)
        if visible is not None:
            return Progress(visible, complete=True)
        return Progress(max((_length(each.parts) for each in self._broken(prefix)), default=0), complete=False)

    def upload(self, digest: str, size: int, owner: str = "", *, hidden: bool = False) -> Upload:
        """Begin or go on. Raises InvalidDigest, InvalidName, InvalidInput, BlobTooLarge, StorageUnavailable."""
        check_size(size)
        prefix = s3_places.data_prefix(digest, owner)
        self._ensure_bucket()
        visible = None if hidden else visible_size(self._bucket, digest)
        if visible is not None:
            return AlreadyVisible(visible)
        if size <= PART_BYTES:
            # Nothing is kept of a broken one: S3 keeps whole parts alone.
            return HeldUpload(digest, size, bytearray(), store=partial(self._put, digest), keep=lambda _: None)
        staged = self._take(prefix, size)
        return PartsUpload(self._bucket, staged, Target(digest, size, hidden=hidden), self._lender, self._open)

    def _put(self, digest: str, data: bytearray) -> None:
        self._bucket.put(blob_key(digest), data, base64.b64encode(bytes.fromhex(hex_of(digest))).decode())

    def open(self, digest: str) -> S3Blob:
        """Open a visible blob. Raises InvalidDigest, BlobNotFound, StorageUnavailable."""
        located = locate(self._bucket, digest)
        if located is None:
            raise BlobNotFound(f"no blob {digest}")
        return S3Blob(self._bucket, digest, located)

    def delete(self, digest: str) -> None:
        """Remove a blob, if it is there. Raises InvalidDigest, StorageUnavailable."""
        s3_places.remove(self._bucket, digest, locate(self._bucket, digest))

    def blobs(self) -> Iterator[Stored]:
        """Every visible blob, page after page. Raises StorageUnavailable."""
        for each in s3_places.found(self._bucket):
            size = s3_places.size_of(self._bucket, each)
            if each.visible is not None and size is not None:
                yield Stored(each.digest, size, each.visible.modified)

    def sweep_uploads(self, before: datetime, *, dry_run: bool = False) -> int:
        """Remove parts, data that nothing names, and probes; times are the server's. Raises StorageUnavailable."""
        return Sweep(self._bucket, self._open, before, dry_run=dry_run).run()

    def quarantine(self, digest: str) -> bool:
        """Move a damaged blob to `quarantine/`. Raises InvalidDigest, StorageUnavailable.

        Damaged is what comes wrong twice in the same way: what the network damages comes wrong in another
        way each time.
        """
        located = locate(self._bucket, digest)
        found = None if located is None else self._hashed(located.key)
        if located is None or found is None or found[1] == digest:
            return False
        if self._hashed(located.key) != found:
            raise StorageUnavailable(f"blob {digest}: S3 sends other bytes each time")
        self._bucket.copy(located.key, QUARANTINE + hex_of(digest), found[0].etag)
        if locate(self._bucket, digest) != located:
            return False  # sent again, while the damage was looked at
        s3_places.remove(self._bucket, digest, located)
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
        for found in self._bucket.objects(QUARANTINE):
            digest = digest_named(found.key.removeprefix(QUARANTINE))
            if digest is not None:
                yield Stored(digest, found.size, found.modified)

    def discard(self, digest: str) -> None:
        """Remove a damaged blob, if it is there. Raises InvalidDigest, StorageUnavailable."""
        self._bucket.delete(QUARANTINE + hex_of(digest))

    def probe(self) -> None:
        """Create the bucket if need be; write, read and remove an object. Raises StorageUnavailable."""
        self._bucket.ensure()
        key, data = f"{PROBES}{uuid.uuid4().hex}", b"probe"
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

    def _take(self, prefix: str, size: int) -> Staged:
        """The broken upload that came farthest and nobody here writes to, or a new one."""
        for staged in sorted(self._broken(prefix), key=lambda each: _length(each.parts), reverse=True):
            # Longer than announced now: left by somebody who announced more, so not these bytes.
            if _length(staged.parts) <= size and self._open.take(staged.upload, staged.key):
                return staged
        key = s3_places.new_data_key(prefix)
        upload = self._bucket.begin(key)
        self._open.take(upload, key)
        return Staged(key, upload, [])

    def _broken(self, prefix: str) -> list[Staged]:
        """The uploads to keys of this prefix, whoever writes to them."""
        return [self._staged(begun) for begun in self._bucket.begun(prefix) if s3_places.is_data_key(begun.key, prefix)]

    def _staged(self, begun: Begun) -> Staged:
        """With parts 1, 2, ... as long as they are of full size: what can be gone on from."""
        found = enumerate(self._bucket.parts(begun.key, begun.upload), start=1)
        whole = takewhile(lambda each: each[1].number == each[0] and each[1].size == PART_BYTES, found)
        return Staged(begun.key, begun.upload, [part for _, part in whole])


def _length(parts: list[Part]) -> int:
    return sum(part.size for part in parts)
