"""The blob service: which blobs a caller has, bytes in, bytes out.

Owns the order of an upload: the bytes durable in the store, then the row and the claim, then the
acknowledgement; so what was acknowledged survives, and what has a row has its bytes. Does not know the
wire, SQL, or what the bytes mean.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from adapter_registry.blobs.intake import check_size
from adapter_registry.blobs.protocol import BLOCK_BYTES, BlobStore, Progress, Upload
from adapter_registry.domain.blobs import Ledger, Reservation, being_swept, missing_blobs
from adapter_registry.service.pool import Pools
from adapter_registry.service.stored_reading import Verified, open_verified
from adapter_registry.service.uploading import Room, Uploading
from lorry.errors import BlobNotFound, DigestMismatch
from lorry.overlap import ahead, behind, whole


class Piece(NamedTuple):
    """Bytes of a blob and where they begin in it."""

    offset: int
    data: memoryview


@dataclass(slots=True)
class Traffic:
    """What passed since the process began. received, sent: bytes. asked, had: digests that FindMissing was
    asked for, and those that need not be sent. uploads: that were acknowledged; spared: those whose bytes
    were not needed, and how many bytes these are. uploading: those that run now.
    """

    received: int = 0
    sent: int = 0
    asked: int = 0
    had: int = 0
    uploads: int = 0
    spared: int = 0
    spared_bytes: int = 0
    uploading: int = 0


class StoredBlobs:
    """The blobs of a registry."""

    def __init__(self, store: BlobStore, ledger: Ledger, pools: Pools) -> None:
        self._store = store
        self._ledger = ledger
        self._queries, self._writes, self._transfers = pools.queries, pools.writes, pools.transfers
        self._uploading = Uploading(store, ledger, pools)
        self.traffic = Traffic()

    async def find_missing(self, digests: Sequence[str], namespace: str) -> list[str]:
        """As `missing`, for somebody who is about to send them."""
        missing = await self.missing(digests, namespace)
        self.traffic.asked += len(digests)
        self.traffic.had += len(digests) - len(missing)
        return missing

    async def missing(self, digests: Sequence[str], namespace: str) -> list[str]:
        """Those that the namespace has to send before it may publish them, in order. Raises StorageUnavailable."""
        known = await self._writes.run(self._ledger.present, digests, namespace)
        gone = set(await self._transfers.run(self._store.missing, [digest for digest in digests if digest in known]))
        return [digest for digest in digests if digest not in known or digest in gone]

    async def require(self, digests: Sequence[str], namespace: str) -> Verified:
        """What reads them all, for what is to be published in the namespace.

        Raises MissingBlobs where it has to send one, StorageUnavailable.
        """
        if missing := await self.missing(digests, namespace):
            raise missing_blobs(missing)
        records = await self._queries.run(self._ledger.find, digests, namespace)
        if gone := [digest for digest in digests if digest not in records]:
            raise missing_blobs(gone)
        return Verified(self._store, self._ledger, records)

    async def progress(self, digest: str, namespace: str) -> Progress:
        """How far the namespace's upload came. Raises StorageUnavailable."""
        known = (await self._queries.run(self._ledger.find, [digest], namespace)).get(digest)
        if known is not None and not known.damaged and not await self._transfers.run(self._store.missing, [digest]):
            return Progress(known.size, complete=True)
        return await self._transfers.run(self._store.progress, digest, namespace, hidden=True)

    async def receive(self, digest: str, size: int, namespace: str, pieces: AsyncIterator[Piece]) -> tuple[int, bool]:
        """Store a blob for the namespace; its size, and whether the bytes were not needed.

        `pieces` end where the sender has said that there are no more, and raise where the stream
        breaks: then what came is kept. Raises that, and what BlobService.Upload documents.
        """
        check_size(size)
        self.traffic.uploading += 1
        try:
            with self._uploading.admitted():
                size, existed = await self._receive(digest, size, namespace, pieces)
        finally:
            self.traffic.uploading -= 1
        self.traffic.uploads += 1
        self.traffic.spared += existed
        self.traffic.spared_bytes += size * existed
        return size, existed

    async def _receive(self, digest: str, size: int, namespace: str, pieces: AsyncIterator[Piece]) -> tuple[int, bool]:
        admission = await self._queries.run(self._ledger.admit, digest, size, namespace)
        known = admission.known
        if known is not None and not await self._transfers.run(self._store.missing, [digest]):
            await self._keep(digest, known.size, None, namespace)
            return known.size, True
        async with self._uploading.room(digest, size, namespace, metered=admission.metered) as room:
            await self._take(digest, size, room, pieces)
        return size, False

    async def _take(self, digest: str, size: int, room: Room, pieces: AsyncIterator[Piece]) -> None:
        namespace = room.held.namespace
        # Hidden: whoever may not know of a blob brings all of it, whoever else has it.
        async with self._transfers.opened(self._store.upload, digest, size, namespace, hidden=True) as upload:

            async def write(piece: Piece) -> None:
                self.traffic.received += len(piece.data)
                await room.renew()
                await self._transfers.run(upload.write, piece.offset, piece.data)

            try:
                await behind(write, pieces)
                # A sender who has gone meanwhile need not come again with all of it.
                await whole(self._finish(upload, digest, size, room))
            except DigestMismatch:
                room.taken = 0  # nothing of it is kept
                raise
            except BaseException:
                room.taken = upload.committed
                raise

    async def _finish(self, upload: Upload, digest: str, size: int, room: Room) -> None:
        await self._transfers.run(upload.finish)
        room.filled = True
        await self._keep(digest, size, upload.blocks, room.held.namespace, room.held)

    async def read(self, digest: str, offset: int, limit: int) -> AsyncGenerator[Piece, None]:
        """A blob or a part of it, in order, in blocks that were verified; limit 0 means up to the end.

        Raises BlobNotFound, OutOfRange, CorruptBlob, StorageUnavailable.
        """
        record = (await self._queries.run(self._ledger.find, [digest])).get(digest)
        if record is None:
            # The same words whether there is none, or none that the caller may know of.
            raise BlobNotFound(f"no blob {digest}")
        async with self._transfers.opened(open_verified, self._store, self._ledger, record) as blob:
            blocks = blob.chunks(offset, limit, BLOCK_BYTES)
            async with aclosing(ahead(partial(self._transfers.run, next, blocks, None))) as pieces:
                async for data in pieces:
                    yield Piece(offset, data)
                    offset += len(data)
                    self.traffic.sent += len(data)

    async def _keep(
        self, digest: str, size: int, blocks: bytes | None, namespace: str, held: Reservation | None = None
    ) -> None:
        """Behind durable bytes: the row and the claim. Only then may the sender be answered."""
        await self._writes.run(self._ledger.record, digest, size, blocks, namespace, held)
        # Garbage collection may have taken bytes of no row between their coming and the row's.
        if await self._transfers.run(self._store.missing, [digest]):
            raise being_swept(digest)
