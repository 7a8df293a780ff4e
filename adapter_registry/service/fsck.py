"""A check of everything: every stored byte is hashed, every name is followed to its bytes.

Owns what is looked at, in which order, and what counts as a finding. Damaged blobs are put aside on the
way. Other calls go on: at most a few threads hash, and what comes or goes meanwhile is no finding.
Does not know the wire or SQL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeAlias

from adapter_registry.blobs.protocol import BlobStore, Stored
from adapter_registry.domain.blobs import Ledger
from adapter_registry.domain.garbage import BlobState, CheckProgress, Finding, Problem, Upkeep
from adapter_registry.service.pool import Pools
from adapter_registry.service.stored_reading import put_aside
from lorry.errors import BlobNotFound, CorruptBlob
from lorry.format.digest import Hasher

# Blobs hashed at once; each takes a core, and the cores are others' too.
_AT_ONCE = 2
# One read; and the reads in one job, after which others get the thread: 50 ms of hashing.
_CHUNK = 1 << 20
_SLICE = 64
# Rows in one transaction, digests in one question to the store.
_BATCH = 250
# Between two reports of progress.
_REPORT_SECONDS = 1.0
# Versions that a finding names.
_TOLD = 20

Report: TypeAlias = Finding | CheckProgress


class Recorded(Upkeep, Ledger, Protocol):
    """The catalogue as a check works on it."""


@dataclass(slots=True)
class _Tally:
    """How far the check is. damaged: what it put aside itself."""

    total: int
    blobs: int = 0
    size: int = 0
    damaged: set[str] = field(default_factory=set)

    def report(self, *, done: bool = False) -> CheckProgress:
        return CheckProgress(self.blobs, self.size, max(self.total, self.blobs), done)


class Checker:
    """Checks."""

    def __init__(self, catalog: Recorded, store: BlobStore, pools: Pools) -> None:
        self._catalog = catalog
        self._store = store
        self._queries, self._transfers = pools.queries, pools.transfers

    async def check(self) -> AsyncGenerator[Report, None]:
        """Findings as they come and how far the check is; the last report is done.

        Raises AlreadyRunning, StorageUnavailable.
        """
        async with self._queries.opened(self._catalog.take_turn, "fsck"):
            tally = _Tally(await self._transfers.run(_count, self._store))
            for part in (self._bytes(tally), self._names(tally), self._manifests()):
                async with aclosing(part) as reports:
                    async for report in reports:
                        yield report
            yield tally.report(done=True)

    async def _bytes(self, tally: _Tally) -> AsyncGenerator[Report, None]:
        """Every blob that the storage has, hashed."""
        blobs, told = self._store.blobs(), time.monotonic()
        while some := await self._transfers.run(_some, blobs):
            work = [asyncio.create_task(self._hash(blob, tally)) for blob in some]
            try:
                pending = set(work)
                while pending:
                    _, pending = await asyncio.wait(pending, timeout=_REPORT_SECONDS)
                    if time.monotonic() - told >= _REPORT_SECONDS:
                        told = time.monotonic()
                        yield tally.report()
                findings = [task.result() for task in work]
            finally:
                await _ended(work)
            for finding in findings:
                if finding is not None:
                    yield finding

    async def _hash(self, blob: Stored, tally: _Tally) -> Finding | None:
        hasher = Hasher()
        try:
            async with self._transfers.opened(self._store.open, blob.digest) as opened:
                chunks = opened.chunks(0, 0, _CHUNK)
                while size := await self._transfers.run(_feed, hasher, chunks):
                    tally.size += size
            if hasher.digest != blob.digest:
                await self._transfers.run(put_aside, self._store, self._catalog, blob.digest)
        except BlobNotFound:
            return None  # swept meanwhile
        except CorruptBlob as damage:
            tally.damaged.add(blob.digest)
            tally.blobs += 1
            return await self._finding(Problem.CORRUPT, blob.digest, damage.message)
        tally.blobs += 1
        return None

    async def _names(self, tally: _Tally) -> AsyncGenerator[Finding, None]:
        """Every blob that the database knows, looked for in the storage."""
        async for states in self._states():
            lacking = set(await self._transfers.run(self._store.missing, [state.digest for state in states]))
            for state in states:
                if state.digest in lacking - tally.damaged:
                    # Read again: it may have been swept, or sent again, between the two answers.
                    finding = await self._absence(await self._queries.run(self._catalog.state, state.digest))
                    if finding is not None:
                        yield finding

    async def _states(self) -> AsyncIterator[list[BlobState]]:
        after = ""
        while page := await self._queries.run(self._catalog.states, after, _BATCH):
            yield page
            after = page[-1].digest

    async def _absence(self, state: BlobState) -> Finding | None:
        if state.quarantined:
            message = "its bytes were damaged and put aside; send them again"
            return await self._finding(Problem.QUARANTINED, state.digest, message)
        message = "expected the blob to be stored, it is not there; send it again"
        finding = await self._finding(Problem.MISSING, state.digest, message)
        gone = state.condemned or not finding.versions
        return None if gone or not await self._transfers.run(self._store.missing, [state.digest]) else finding

    async def _manifests(self) -> AsyncGenerator[Finding, None]:
        """Every manifest, hashed."""
        after = -1
        while after:
            spoilt, after = await self._queries.run(self._catalog.spoilt_manifests, max(after, 0), _BATCH)
            for digest, version, found in spoilt:
                yield Finding(Problem.MANIFEST, digest, (version,), f"expected a manifest of {digest}, got {found}")

    async def _finding(self, problem: Problem, digest: str, message: str) -> Finding:
        versions = await self._queries.run(self._catalog.namers, digest, _TOLD)
        return Finding(problem, digest, tuple(versions), message)


def _count(store: BlobStore) -> int:
    return sum(1 for _ in store.blobs())


def _some(blobs: Iterator[Stored]) -> list[Stored]:
    return list(islice(blobs, _AT_ONCE))


def _feed(hasher: Hasher, chunks: Iterator[bytes | memoryview]) -> int:
    """Hash some more; how many bytes they were."""
    size = 0
    for chunk in islice(chunks, _SLICE):
        hasher.update(chunk)
        size += len(chunk)
    return size


async def _ended(work: list[asyncio.Task[Finding | None]]) -> None:
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
