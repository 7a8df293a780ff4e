"""Where a blob lies in a bucket, and how its name comes to stand for its bytes.

The object `blobs/sha256/<hex>` is what makes a blob visible. It is the blob's bytes, or a marker: empty,
with metadata that name the object under `data/` which has them. Owns these keys and the marker's life.
Does not know how bytes get under `data/`, nor whether they are right.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import merge
from itertools import groupby

from adapter_registry.blobs.intake import check_owner, digest_named, hex_of
from adapter_registry.blobs.s3_bucket import Bucket, Object
from adapter_registry.blobs.s3_faults import storage
from lorry.errors import StorageUnavailable
from lorry.format.digest import digest_of

BLOBS, DATA, QUARANTINE = "blobs/sha256/", "data/sha256/", "quarantine/sha256/"
# Metadata of a marker: the key of the bytes, without the store's prefix, and how many they are.
_NAMED, _SIZE = "lorry-data", "lorry-size"
_HEX_DIGITS = 64
_EMPTY = digest_of(b"")


@dataclass(frozen=True, slots=True)
class Located:
    """The object that has a visible blob's bytes. size: of the blob."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a listing shows of one digest. visible: bytes or a marker; data: objects that a marker may name."""

    digest: str
    visible: Object | None
    data: list[Object]


def blob_key(digest: str) -> str:
    """Of what makes the blob visible. Raises InvalidDigest."""
    return BLOBS + hex_of(digest)


def data_prefix(digest: str, owner: str) -> str:
    """How the keys of the owner's uploads begin. Raises InvalidDigest, InvalidName."""
    return f"{DATA}{hex_of(digest)}.{check_owner(owner)}."


def new_data_key(prefix: str) -> str:
    """One that was never used, so that nobody else's bytes come to lie under it."""
    return prefix + uuid.uuid4().hex


def is_data_key(key: str, prefix: str) -> bool:
    """Whether the key is one of that prefix: owners may have dots, and what is behind the owner has none."""
    return key.startswith(prefix) and "." not in key.removeprefix(prefix)


def locate(bucket: Bucket, digest: str) -> Located | None:
    """Where a blob's bytes are, by one question; None where it is not visible.

    Raises InvalidDigest, StorageUnavailable.
    """
    key = blob_key(digest)
    head = bucket.head(key)
    if head is None:
        return None
    if _NAMED not in head.metadata:
        if not head.size and digest != _EMPTY:
            # Not taken for damage: nothing would name the data any more, and a sweep would take it.
            raise StorageUnavailable(f"blob {digest}: expected a marker, its metadata are lost")
        return Located(key, head.size)
    with storage():
        named, size = head.metadata[_NAMED], int(head.metadata[_SIZE])
    if not named.startswith(f"{DATA}{hex_of(digest)}."):
        raise StorageUnavailable(f"blob {digest}: expected a marker that names its data, it names {named[:100]!r}")
    return Located(named, size)


def visible_size(bucket: Bucket, digest: str) -> int | None:
    """Length of a blob in bytes; None where it is not visible, or what its marker names is gone."""
    located = locate(bucket, digest)
    if located is None or located.key == blob_key(digest):
        return None if located is None else located.size
    head = bucket.head(located.key)
    return located.size if head is not None and head.size == located.size else None


def remove(bucket: Bucket, digest: str, located: Located | None) -> None:
    """Take a blob out of sight, then its bytes: what a crash leaves between the two is swept as anything unnamed."""
    bucket.delete(blob_key(digest))
    if located is not None and located.key != blob_key(digest):
        bucket.delete(located.key)


def found(bucket: Bucket) -> Iterator[Found]:
    """Everything under `blobs/` and `data/` by digest, a page at a time.

    S3 lists in the order of keys. Where a server does not, a digest comes in several pieces.
    """
    listed = merge(bucket.objects(BLOBS), bucket.objects(DATA), key=_hex_in)
    for name, group in groupby(listed, key=_hex_in):
        digest, objects = digest_named(name), list(group)
        if digest is not None:
            visible = next((each for each in objects if each.key == BLOBS + name), None)
            yield Found(digest, visible, [each for each in objects if each.key.startswith(f"{DATA}{name}.")])


def looks_named(each: Found) -> bool:
    """Whether a marker is there with one object that it can name, so that nobody needs to ask."""
    return each.visible is not None and not each.visible.size and len(each.data) == 1


def size_of(bucket: Bucket, each: Found) -> int | None:
    """Length in bytes of the blob, not of its marker; None where it is not visible. Raises StorageUnavailable."""
    if each.visible is None or each.visible.size or each.digest == _EMPTY:
        return None if each.visible is None else each.visible.size
    if looks_named(each):
        return each.data[0].size
    located = locate(bucket, each.digest)
    return None if located is None else located.size


class Marker:
    """A marker on its way: announced before what it names is there, and made by one call, or never.

    It is a multipart upload of one empty part, since that alone can be called off by somebody else: who
    wants to remove unnamed data aborts it first, or finds it made.
    """

    def __init__(self, bucket: Bucket, digest: str, data: str, size: int) -> None:
        """Announce it. Raises StorageUnavailable."""
        self._bucket, self._digest, self._data = bucket, digest, data
        self.key = blob_key(digest)
        self.upload = bucket.begin(self.key, {_NAMED: data, _SIZE: str(size)})
        self._part = bucket.send(self.key, self.upload, 1, bytearray())

    def make(self) -> None:
        """Make the blob visible. Raises StorageUnavailable where it is not, or nobody knows."""
        try:
            self._bucket.complete(self.key, self.upload, [self._part])
        except StorageUnavailable:
            # The answer may be what failed.
            located = locate(self._bucket, self._digest)
            if located is None or located.key != self._data:
                raise

    def call_off(self) -> None:
        """It is not to be made any more; what cannot be aborted now is swept later."""
        with suppress(StorageUnavailable):
            self._bucket.abort(self.key, self.upload)


def _hex_in(listed: Object) -> str:
    return listed.key.removeprefix(BLOBS).removeprefix(DATA)[:_HEX_DIGITS]
