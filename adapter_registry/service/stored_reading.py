"""Bytes on their way out of the store: no wrong one leaves.

Owns the check of every block against the blob's record before it is handed on, and what is done about
a block that is not right: the store looks at the whole blob once more, and puts it aside where it is
damaged. Works in the pool of the transfers. Does not know who asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NoReturn

from adapter_registry.blobs.intake import span
from adapter_registry.blobs.protocol import BLOCK_BYTES, Blob, BlobStore
from adapter_registry.blobs.sums import SUM_BYTES, Sums, block_sum
from adapter_registry.domain.blobs import BlobRecord, Ledger
from lorry.errors import CorruptBlob, DigestMismatch, StorageUnavailable

_log = logging.getLogger(__name__)


class VerifiedBlob:
    """A Blob of the store whose chunks are right, or never come."""

    def __init__(self, blob: Blob, record: BlobRecord, store: BlobStore, ledger: Ledger) -> None:
        """Take over an open blob. One whose blocks are not known yet is hashed as a whole, once.

        Raises CorruptBlob, StorageUnavailable; the blob is closed then.
        """
        self._blob, self._record, self._store, self._ledger = blob, record, store, ledger
        try:
            if blob.size != record.size:
                self._complain()
            self._blocks = record.blocks if record.blocks is not None else self._hash_whole()
        except BaseException:
            blob.close()
            raise

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._record.size

    def chunks(self, offset: int, limit: int, chunk: int) -> Iterator[memoryview]:
        """Bytes [offset, offset + limit) in pieces of at most `chunk` bytes; limit 0 means up to the end.

        Raises OutOfRange, CorruptBlob, StorageUnavailable.
        """
        return self._pieces(span(self.size, offset, limit), chunk)

    def _pieces(self, wanted: range, chunk: int) -> Iterator[memoryview]:
        if not wanted:
            return
        at = wanted.start - wanted.start % BLOCK_BYTES
        for block in self._blob.chunks(at, -(-wanted.stop // BLOCK_BYTES) * BLOCK_BYTES - at, BLOCK_BYTES):
            self._check(at // BLOCK_BYTES, block)
            inside = memoryview(block)[max(wanted.start - at, 0) : wanted.stop - at]
            for start in range(0, len(inside), chunk):
                yield inside[start : start + chunk]
            at += BLOCK_BYTES

    def close(self) -> None:
        """Let go."""
        self._blob.close()

    def _check(self, index: int, block: bytes | memoryview) -> None:
        expected = self._blocks[index * SUM_BYTES : (index + 1) * SUM_BYTES]
        if block_sum(block) != expected:
            self._complain()

    def _hash_whole(self) -> bytes:
        sums = Sums()
        for block in self._blob.chunks(0, 0, BLOCK_BYTES):
            sums.update(block)
        try:
            sums.verify(self._record.digest)
        except DigestMismatch:
            self._complain()
        self._ledger.know_blocks(self._record.digest, sums.blocks)
        return sums.blocks

    def _complain(self) -> NoReturn:
        put_aside(self._store, self._ledger, self._record.digest)
        raise StorageUnavailable(f"blob {self._record.digest}: the storage sent wrong bytes, though its own are right")


def put_aside(store: BlobStore, ledger: Ledger, digest: str) -> None:
    """Take a blob that looks damaged out of sight, where it is. Nothing happens to one that is sound.

    The store before the ledger: a row without bytes is missing for everybody, while a row that says
    damaged before the bytes are gone could outlive their healing. Raises CorruptBlob where the blob is
    damaged, StorageUnavailable.
    """
    began = datetime.now(UTC)
    if store.quarantine(digest):
        ledger.note_damage(digest, began)
        _log.error("blob %s is damaged and was put aside; sending its bytes again heals it", digest)
    elif not store.missing([digest]):
        return
    raise _damaged(digest)


def open_verified(store: BlobStore, ledger: Ledger, record: BlobRecord) -> VerifiedBlob:
    """Open a blob of the ledger. Raises BlobNotFound, CorruptBlob, StorageUnavailable."""
    if record.damaged:
        raise _damaged(record.digest)
    return VerifiedBlob(store.open(record.digest), record, store, ledger)


class Verified:
    """Opens the blobs of these records. Used by one job of the transfers' pool."""

    def __init__(self, store: BlobStore, ledger: Ledger, records: Mapping[str, BlobRecord]) -> None:
        self._store, self._ledger, self._records = store, ledger, records

    def open(self, digest: str) -> VerifiedBlob:
        """Raises BlobNotFound, CorruptBlob, StorageUnavailable."""
        return open_verified(self._store, self._ledger, self._records[digest])


def _damaged(digest: str) -> CorruptBlob:
    return CorruptBlob(
        f"blob {digest}: the stored bytes are damaged and were put aside; send them again", digest=digest
    )
