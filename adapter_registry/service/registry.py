"""The registry's rules and resources in one place, as the wire layer meets them.

Owns the judgement of what is published. Reads and writes that have no rule of their own go to the
catalogue directly, in the pool of their kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.namespaces import Namespaces
from adapter_registry.service.access import Access
from adapter_registry.service.compatibility import Verdict, verdict
from adapter_registry.service.fsck import Checker
from adapter_registry.service.garbage import GarbageCollector
from adapter_registry.service.pool import Pools
from adapter_registry.service.publish import Publisher
from adapter_registry.service.stored import StoredBlobs
from adapter_registry.service.verdicts import Judging
from adapter_registry.service.watching import Watcher
from lorry.format.facts import AdapterFacts


@dataclass(frozen=True, slots=True)
class Registry:
    """The parts of one process."""

    catalog: Catalog
    namespaces: Namespaces
    store: BlobStore
    blobs: StoredBlobs
    pools: Pools
    publisher: Publisher
    watcher: Watcher
    access: Access
    judging: Judging
    collector: GarbageCollector
    checker: Checker

    async def judge(self, facts: AdapterFacts, base: str) -> Verdict:
        """The verdict on what is not published yet, on the base of that name or id.

        Raises BaseNotFound, InvalidInput.
        """
        return await self.pools.queries.run(verdict, self.catalog, facts, base)
