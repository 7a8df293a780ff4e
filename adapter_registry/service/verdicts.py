"""Verdicts on what is published: told when asked, and kept complete in the background.

Owns when stored verdicts are caught up with the bases: at start, when a base came or its family
changed, and now and then, for what another process left undone. Several replicas may do it at once:
each writes the same. Does not know the reasons of a verdict.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import Listing, Page, VersionRecord
from adapter_registry.domain.verdicts import Verdict
from adapter_registry.service.bundles import outline_of
from adapter_registry.service.compatibility import verdict_of_version
from adapter_registry.service.pool import Pools
from lorry.errors import LorryError, StorageUnavailable
from lorry.format.facts import AdapterFacts
from lorry.format.findings import Finding
from lorry.format.manifest import Manifest
from lorry.format.reference import Reference

_log = logging.getLogger(__name__)

# Versions judged in one go: some 0.15 s of a thread for 210 modules each, and a transaction of a few milliseconds.
_BATCH = 100
# A pass that finds nothing missing reads an index entry for each version and base: 0.1 s for 100,000.
_SECONDS = 300.0
# How soon it tries again where the database or the store did not answer.
_RETRY_SECONDS = 10.0


class Judging:
    """The verdicts of a registry."""

    def __init__(self, catalog: Catalog, store: BlobStore, pools: Pools, draining: asyncio.Event) -> None:
        self._catalog = catalog
        self._store = store
        self._queries, self._writes, self._transfers = pools.queries, pools.writes, pools.transfers
        self._draining = draining
        self._woken = asyncio.Event()
        # Bases whose verdicts may not be complete.
        self.queue = 0

    async def on(self, reference: Reference, base: str) -> tuple[Finding, ...]:
        """Everything that there is to say about a published version on the base of that name or id.

        Raises BaseNotFound, InvalidInput, and as `facts_of`.
        """
        version, facts = await self._published(reference)
        made_for = version.manifest.base_id
        return await self._queries.run(verdict_of_version, self._catalog, facts, made_for, base)

    async def all(self, reference: Reference, page: Page) -> Listing[Verdict]:
        """The verdicts on every registered base, by its name; none is ever missing.

        Raises InvalidPageToken, and as `on`.
        """
        version, facts = await self._published(reference)
        exact = Reference(reference.adapter, digest=version.digest)
        return await self._queries.run(self._catalog.list_verdicts, exact, facts, page)

    def wake(self) -> None:
        """A base came, or its family changed: catch up soon."""
        self._woken.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Catch up in the background for the time of the block."""
        work = asyncio.create_task(self._run())
        work.add_done_callback(_tell)
        try:
            yield
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    async def _run(self) -> None:
        while not self._draining.is_set():
            self._woken.clear()
            pause = _SECONDS
            try:
                await self._catch_up()
            except LorryError as error:
                _log.warning("verdicts are behind, next try in %s s: %s", _RETRY_SECONDS, error)
                pause = _RETRY_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _catch_up(self) -> None:
        behind = ""
        while lacking := await self._queries.run(self._catalog.versions_without_facts, behind, _BATCH):
            found = {manifest.digest: await self._read(manifest) for manifest in lacking}
            facts = {digest: one for digest, one in found.items() if one is not None}
            if facts:
                await self._writes.run(self._catalog.add_facts, facts)
            behind = lacking[-1].digest
        bases = list((await self._queries.run(self._catalog.families)).kin)
        self.queue = len(bases)
        for base_id in bases:
            at: int | None = 0
            while at is not None and not self._draining.is_set():
                at = await self._writes.run(self._catalog.judge_versions, base_id, at, _BATCH)
            self.queue -= 1

    async def _read(self, manifest: Manifest) -> AdapterFacts | None:
        """The facts of a version of an earlier release, None where its bytes do not give them any more."""
        try:
            return await self._transfers.run(outline_of, self._store, manifest.files)
        except StorageUnavailable:
            raise
        except LorryError as error:
            _log.warning("version %s has no verdicts: %s", manifest.digest, error)
            return None

    async def _published(self, reference: Reference) -> tuple[VersionRecord, AdapterFacts]:
        """A version, yanked or not, and what it is.

        Raises what Catalog.get_version raises, and where its facts are not stored yet BlobNotFound,
        CorruptBlob, InvalidAdapter, StorageUnavailable.
        """
        version = await self._queries.run(self._catalog.get_version, reference)
        facts = await self._queries.run(self._catalog.stored_facts, version.digest)
        if facts is None:
            facts = await self._transfers.run(outline_of, self._store, version.manifest.files)
        return version, facts


def _tell(work: asyncio.Task[None]) -> None:
    if not work.cancelled() and (defect := work.exception()):
        _log.error("verdicts are not computed in the background any more", exc_info=defect)
