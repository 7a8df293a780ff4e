"""Uploads that run in this process: how many at a time, and what each counts for a quota meanwhile.

Owns the bound by principal, and the life of a reservation: made before the first byte, renewed while bytes
come, and at the end filled, or cut to what the store has kept. Does not know the bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from time import monotonic

from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.domain.acting import actor
from adapter_registry.domain.blobs import Ledger, Reservation
from adapter_registry.service.pool import Pools
from lorry.errors import LorryError, TooManyUploads
from lorry.overlap import ended

_log = logging.getLogger(__name__)

# Of one principal, in one process. Each is an open file or a multipart of S3; `lorry push` has 4 at a time.
MAX_UPLOADS = 64
# Well below the ten minutes at least for which collections leave a reservation alone.
_RENEW_SECONDS = 120.0


class Room:
    """One upload's room in its namespace's quota. held: what the ledger knows it by; taken: bytes that came, with
    those of before, None where nobody knows; filled: they are durable, so they take it whatever happens next.
    """

    def __init__(self, held: Reservation, size: int, ledger: Ledger, pools: Pools, *, metered: bool) -> None:
        self.held = held
        self.taken: int | None = None
        self.filled = False
        self._size = size
        self._ledger = ledger
        self._pools = pools
        self._renewed = float("-inf") if metered else float("inf")

    async def renew(self) -> None:
        """To be called while bytes come. Raises QuotaExceeded, StorageUnavailable."""
        if monotonic() - self._renewed > _RENEW_SECONDS:
            await self._pools.writes.run(self._ledger.reserve, self.held, self._size)
            self._renewed = monotonic()


class Uploading:
    """The uploads of this process."""

    def __init__(self, store: BlobStore, ledger: Ledger, pools: Pools) -> None:
        self._store = store
        self._ledger = ledger
        self._pools = pools
        self._running: Counter[str] = Counter()
        self._places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """One upload of the acting principal. Raises TooManyUploads."""
        who = actor().principal
        if self._running[who] >= MAX_UPLOADS:
            raise TooManyUploads(f"expected at most {MAX_UPLOADS} uploads of {who} at a time, got another")
        self._running[who] += 1
        try:
            yield
        finally:
            self._running[who] -= 1
            if not self._running[who]:
                del self._running[who]

    @asynccontextmanager
    async def room(self, digest: str, size: int, namespace: str, *, metered: bool) -> AsyncIterator[Room]:
        """For the time of the upload. Raises QuotaExceeded, StorageUnavailable."""
        with self._place(digest, namespace) as place:
            room = Room(Reservation(namespace, digest, place), size, self._ledger, self._pools, metered=metered)
            try:
                await room.renew()
                yield room
            finally:
                if metered:
                    await ended(asyncio.ensure_future(self._settle(room)))

    @contextmanager
    def _place(self, digest: str, namespace: str) -> Iterator[int]:
        """The first that no upload of the digest has here: one that goes on finds its reservation again."""
        key = namespace, digest
        place = next(
            number for number in range(MAX_UPLOADS + len(self._places[key])) if number not in self._places[key]
        )
        self._places[key].add(place)
        try:
            yield place
        finally:
            self._places[key].discard(place)
            if not self._places[key]:
                del self._places[key]

    async def _settle(self, room: Room) -> None:
        """Tell the ledger what the store has kept of the upload, and of others that went on in each other's place."""
        digest, namespace = room.held.digest, room.held.namespace
        try:
            if room.filled and not await self._pools.queries.run(self._ledger.reserves, digest, namespace):
                return
            # The longest of all uploads of the digest; the store does not tell whose it is.
            kept = await self._pools.transfers.run(self._store.progress, digest, namespace, hidden=True)
            running, now = set(self._places[namespace, digest]), datetime.now(UTC)
            if not room.filled:
                taken = kept.committed if room.taken is None else min(room.taken, kept.committed)
                await self._pools.writes.run(self._ledger.release, room.held, taken)
            await self._pools.writes.run(self._ledger.trim, digest, namespace, kept.committed, running, now)
        except LorryError as error:
            _log.warning("the room of uploads of %s stays taken until it expires: %s", digest, error)
