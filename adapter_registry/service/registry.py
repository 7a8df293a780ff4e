"""The registry's rules and resources in one place, as the wire layer meets them.

Owns the judgement of what is published, and which pool each kind of work goes to. Reads and writes
that have no rule of their own go to the catalogue directly, in the pool `queries`.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.domain.catalog import Catalog
from adapter_registry.service.bundles import outline_of
from adapter_registry.service.compatibility import Verdict, verdict
from adapter_registry.service.pool import Pool
from adapter_registry.service.publish import Publisher
from adapter_registry.service.watching import Watcher
from lorry.format.facts import AdapterFacts
from lorry.format.reference import Reference


@dataclass(frozen=True, slots=True)
class Registry:
    """queries: as many threads as the catalogue has connections. transfers: for the blob store."""

    catalog: Catalog
    store: BlobStore
    queries: Pool
    transfers: Pool
    publisher: Publisher
    watcher: Watcher

    async def judge(self, facts: AdapterFacts, base: str) -> Verdict:
        """The verdict on the base of that name or id. Raises BaseNotFound, InvalidInput."""
        return await self.queries.run(verdict, self.catalog, facts, base)

    async def facts_of(self, reference: Reference) -> AdapterFacts:
        """What a published version is, yanked or not, read from its bytes.

        Raises what Catalog.get_version raises, BlobNotFound, StorageUnavailable.
        """
        version = await self.queries.run(self.catalog.get_version, reference)
        return await self.transfers.run(outline_of, self.store, version.manifest.files)
