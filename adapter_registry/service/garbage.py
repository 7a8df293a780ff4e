"""Collection of garbage: what nobody names any more goes, bytes before row.

Owns the order of the steps, each of which may be the last before a crash: the next run goes on with
what was condemned. Safe beside uploads, publishing and reading (see domain.garbage.Upkeep). One run
at a time among all replicas. Does not know the wire or SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol

from adapter_registry.blobs.protocol import BlobStore, Stored
from adapter_registry.domain.blobs import TOUCH_EVERY
from adapter_registry.domain.garbage import Ages, Collection, StoredBlob, Turn, Upkeep
from adapter_registry.domain.records import Expired
from adapter_registry.service.pool import Pools
from adapter_registry.service.quarantine import Quarantine
from lorry.errors import InvalidInput

# Rows in one transaction: some ten milliseconds, in which publishing waits.
_BATCH = 250
# Versions deleted in one job, in as many transactions as that takes: what a drain waits for, half a second.
_EXPIRED = 1_000
# Blobs deleted at once: below the transfer threads, which uploads and readers need too.
_AT_ONCE = 8
# Versions that are named in the answer.
_TOLD = 1_000
# More than any registry holds: a dry run asks for all in one go.
_ALL = 1 << 31
MAX_GRACE = timedelta(days=3_650)


class Retained(Upkeep, Protocol):
    """The catalogue as a collection works on it."""

    def expire_versions(self, limit: int, *, dry_run: bool) -> list[Expired]:
        """See domain.catalog.Catalog."""

    def finish_deletions(self) -> int:
        """See domain.catalog.Catalog."""


@dataclass(slots=True)
class Collected:
    """What the runs of this process came to, dry ones left out; `ended`: when the last of them was done."""

    runs: int = 0
    blobs: int = 0
    size: int = 0
    versions: int = 0
    uploads: int = 0
    rows: int = 0
    ended: datetime | None = None

    def add(self, done: Collection) -> None:
        """One more run."""
        self.runs += 1
        self.blobs += done.swept_blobs
        self.size += done.swept_bytes
        self.versions += done.expired_count
        self.uploads += done.swept_uploads
        self.rows += done.forgotten_rows
        self.ended = datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long things are kept. unnamed: blobs and broken uploads since they were last of use; events;
    audit: None for ever. settling: what the storage has, but no row knows yet, is let alone for so
    long whatever `unnamed` says: an upload writes its row right behind its bytes.
    """

    unnamed: timedelta
    events: timedelta
    audit: timedelta | None = None
    settling: timedelta = timedelta(minutes=10)


class GarbageCollector:
    """Collects."""

    def __init__(self, catalog: Retained, store: BlobStore, pools: Pools, keeping: Keeping) -> None:
        self._catalog = catalog
        self._store = store
        self._queries, self._writes, self._transfers = pools.queries, pools.writes, pools.transfers
        self._removals = pools.removals
        self._keeping = keeping
        self._quarantine = Quarantine(catalog, store, pools)
        self.collected = Collected()

    async def collect(self, *, dry_run: bool = False, grace: timedelta | None = None) -> Collection:
        """Collect, or with `dry_run` say what would be. Raises AlreadyRunning, InvalidInput, StorageUnavailable."""
        grace = self._keeping.unnamed if grace is None else _checked(grace)
        now = datetime.now(UTC)
        settled = now - max(grace, self._keeping.settling)
        async with self._queries.opened(self._catalog.take_turn, "gc") as turn:
            done = await self._expire(dry_run=dry_run)
            sweep = self._would_sweep if dry_run else self._sweep
            done = await sweep(done, turn, now - grace - min(grace, TOUCH_EVERY), settled)
            uploads = await self._transfers.run(self._store.sweep_uploads, settled, dry_run=dry_run)
            count, size = await self._quarantine.empty(settled, dry_run=dry_run)
            done = replace(done, swept_uploads=uploads, discarded_blobs=count, discarded_bytes=size)
            done = replace(done, forgotten_rows=await self._forget(now, settled, dry_run=dry_run))
        if not dry_run:
            self.collected.add(done)
        return done

    async def _expire(self, *, dry_run: bool) -> Collection:
        """Retention. As many versions go as it lets go of at the beginning; their own parents go the next time.

        What is left of deleted adapters whose deleter died goes too, uncounted: nobody could see it.
        """
        if not dry_run:
            await self._removals.run(self._catalog.finish_deletions)
        old = await self._queries.run(self._catalog.expire_versions, _ALL, dry_run=True)
        gone = old if dry_run else []
        while len(gone) < len(old):
            some = min(_EXPIRED, len(old) - len(gone))
            batch = await self._writes.run(self._catalog.expire_versions, some, dry_run=False)
            if not batch:
                break
            gone += batch
        told = tuple(f"{version.namespace}/{version.name}@{version.number}" for version in gone[:_TOLD])
        return Collection(expired=told, expired_count=len(gone))

    async def _would_sweep(self, done: Collection, _: Turn, before: datetime, settled: datetime) -> Collection:
        held, held_bytes = await self._queries.run(self._catalog.held)
        kept = Collection(kept_blobs=held, kept_bytes=held_bytes)
        async for page in self._pages(self._catalog.condemned):
            done = _swept(done, page)
        async for page in self._pages(lambda after, limit: self._catalog.unnamed(before, after, limit)):
            done, kept = _swept(done, page), _kept(kept, page, -1)
        async for found in self._found():
            for blob, named in await self._queries.run(self._catalog.strays, found):
                if named or blob.since >= settled:
                    kept = _kept(kept, [blob], 1)
                else:
                    done = _swept(done, [blob])
        return replace(done, kept_blobs=kept.kept_blobs, kept_bytes=kept.kept_bytes)

    async def _sweep(self, done: Collection, turn: Turn, before: datetime, settled: datetime) -> Collection:
        async for page in self._pages(self._catalog.condemned):
            done = await self._delete(done, turn, page)
        young = Collection()
        async for found in self._found():
            young = _kept(young, await self._adopt(found, settled), 1)
        async for page in self._pages(lambda after, limit: self._catalog.unnamed(before, after, limit)):
            digests = [blob.digest for blob in page]
            done = await self._delete(done, turn, await self._writes.run(self._catalog.condemn, digests, before))
        held, held_bytes = await self._queries.run(self._catalog.held)
        return replace(done, kept_blobs=young.kept_blobs + held, kept_bytes=young.kept_bytes + held_bytes)

    async def _adopt(self, found: Sequence[StoredBlob], settled: datetime) -> list[StoredBlob]:
        """Rows for blobs that have none, as older releases and crashes left them; those that are too young yet."""
        strays = await self._queries.run(self._catalog.strays, found)
        if old := [blob for blob, _ in strays if blob.since < settled]:
            await self._writes.run(self._catalog.adopt, old)
        return [blob for blob, _ in strays if blob.since >= settled]

    async def _delete(self, done: Collection, turn: Turn, doomed: Sequence[StoredBlob]) -> Collection:
        """Bytes, then rows: as long as there are bytes, nobody else may make the blob live again."""
        for start in range(0, len(doomed), _AT_ONCE):
            # A run that lost its turn while it was frozen must not delete what was sent again since.
            await self._queries.run(turn.confirm)
            some = doomed[start : start + _AT_ONCE]
            work = (self._transfers.run(self._store.delete, blob.digest) for blob in some)
            # All of them are waited for, also where one fails: the turn must not end before they do.
            for outcome in await asyncio.gather(*work, return_exceptions=True):
                if outcome is not None:
                    raise outcome
        if doomed:
            await self._writes.run(self._catalog.remove, [blob.digest for blob in doomed])
        return _swept(done, doomed)

    async def _forget(self, now: datetime, settled: datetime, *, dry_run: bool) -> int:
        audit = self._keeping.audit
        ages = Ages(events=now - self._keeping.events, uploads=settled, audit=now - audit if audit else None)
        if dry_run:
            return await self._queries.run(self._catalog.forgettable, ages)
        count = 0
        while some := await self._writes.run(self._catalog.forget, ages, _BATCH):
            count += some
        return count

    async def _pages(self, list_behind: Callable[[str, int], list[StoredBlob]]) -> AsyncIterator[list[StoredBlob]]:
        after = ""
        while page := await self._queries.run(list_behind, after, _BATCH):
            yield page
            after = page[-1].digest

    async def _found(self) -> AsyncIterator[list[StoredBlob]]:
        """What the storage holds, some at a time."""
        blobs = self._store.blobs()
        while some := await self._transfers.run(_some, blobs):
            yield some


def _some(blobs: Iterator[Stored]) -> list[StoredBlob]:
    return [StoredBlob(blob.digest, blob.size, blob.modified) for blob in islice(blobs, _BATCH)]


def _swept(done: Collection, blobs: Sequence[StoredBlob]) -> Collection:
    size = sum(blob.size for blob in blobs)
    return replace(done, swept_blobs=done.swept_blobs + len(blobs), swept_bytes=done.swept_bytes + size)


def _kept(done: Collection, blobs: Sequence[StoredBlob], sign: int) -> Collection:
    size = sum(blob.size for blob in blobs)
    return replace(done, kept_blobs=done.kept_blobs + sign * len(blobs), kept_bytes=done.kept_bytes + sign * size)


def _checked(grace: timedelta) -> timedelta:
    if not timedelta() <= grace <= MAX_GRACE:
        raise InvalidInput(f"grace: expected 0 s to {MAX_GRACE.days} days, got {grace.total_seconds():g} s")
    return grace
