"""What broken uploads left in a bucket, found and removed.

Owns which of it is nobody's any more: parts that nobody sends on, markers that nobody makes, data that no
marker names, what older releases staged, probes. Times are the server's. Does not know who uploads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from adapter_registry.blobs import s3_places
from adapter_registry.blobs.s3_bucket import Begun, Bucket, Object
from adapter_registry.blobs.s3_places import BLOBS, DATA, blob_key, locate

PROBES = "probe/"
# Where releases before markers staged their uploads.
_STAGING = "uploads/"


class OpenUploads:
    """The multipart uploads that this process works on, and their keys. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, str] = {}

    def take(self, upload: str, key: str) -> bool:
        """Whether nobody else here works on it; then it is the caller's until `drop`."""
        with self._lock:
            if upload in self._keys:
                return False
            self._keys[upload] = key
            return True

    def drop(self, upload: str) -> None:
        """The caller is done with it."""
        with self._lock:
            del self._keys[upload]

    def has_key(self, key: str) -> bool:
        """Whether an upload to that key is open."""
        with self._lock:
            return key in self._keys.values()

    @contextmanager
    def held(self, upload: str, key: str) -> Iterator[bool]:
        """For the time of the block; says whether it could be taken."""
        taken = self.take(upload, key)
        try:
            yield taken
        finally:
            if taken:
                self.drop(upload)


class Sweep:
    """One look at everything. Raises StorageUnavailable."""

    def __init__(self, bucket: Bucket, opened: OpenUploads, before: datetime, *, dry_run: bool) -> None:
        self._bucket = bucket
        self._open = opened
        self._before = before
        self._dry_run = dry_run

    def run(self) -> int:
        """How many things were removed, or would be."""
        # First, so that whoever announced a marker lately is told from who never will make it.
        gone = {begun.upload for begun in self._bucket.begun(DATA, BLOBS, _STAGING) if self._sweep_parts(begun)}
        strays = sum(self._sweep_object(each) for folder in (_STAGING, PROBES) for each in self._bucket.objects(folder))
        return len(gone) + strays + sum(self._sweep_data(found, gone) for found in s3_places.found(self._bucket))

    def _sweep_parts(self, begun: Begun) -> bool:
        if begun.since >= self._before:
            return False
        with self._open.held(begun.upload, begun.key) as taken:
            if not taken:
                return False
            last = self._bucket.last_sent(begun.key, begun.upload)
            old = last is None or last < self._before
            if old and not self._dry_run:
                self._bucket.abort(begun.key, begun.upload)
            return old

    def _sweep_object(self, found: Object) -> bool:
        old = found.modified < self._before and not self._open.has_key(found.key)
        if old and not self._dry_run:
            self._bucket.delete(found.key)
        return old

    def _sweep_data(self, found: s3_places.Found, gone: set[str]) -> int:
        """Data of a digest that no marker names, and none ever will.

        A marker is announced before its data is there. So for data that was listed it is one of: still
        announced, and then the data stays; made, which the last look shows; or aborted, by us or another,
        which ends it for ever. Nobody but its own upload ever names data.
        """
        old = [each for each in found.data if each.modified < self._before and not self._open.has_key(each.key)]
        if not old or s3_places.looks_named(found):
            return 0
        if any(upload not in gone for upload in self._bucket.uploads(blob_key(found.digest))):
            return 0
        located = locate(self._bucket, found.digest)
        return sum(self._sweep_object(each) for each in old if located is None or each.key != located.key)
