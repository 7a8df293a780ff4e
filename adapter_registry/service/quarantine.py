"""The quarantine's end: damaged bytes that nobody can want any more.

Owns which of them go: those put aside before a moment, where no version names the blob, or a sound copy
is back. Where a version still lacks the bytes, what is left of them is all there is, and stays for whoever
repairs by hand. Does not know the wire or SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from adapter_registry.blobs.protocol import BlobStore, Stored
from adapter_registry.domain.garbage import Upkeep
from adapter_registry.service.pool import Pools

# Listed at once; a quarantine with more than a few is a broken disk.
_BATCH = 250


class Quarantine:
    """Empties it."""

    def __init__(self, catalog: Upkeep, store: BlobStore, pools: Pools) -> None:
        self._catalog = catalog
        self._store = store
        self._queries, self._transfers = pools.queries, pools.transfers

    async def empty(self, before: datetime, *, dry_run: bool) -> tuple[int, int]:
        """How many blobs went, or with `dry_run` would, and their bytes. Raises StorageUnavailable."""
        count = size = 0
        aside = self._store.quarantined()
        while some := await self._transfers.run(_some, aside):
            for blob in some:
                if blob.modified < before and await self._dispensable(blob.digest):
                    count, size = count + 1, size + blob.size
                    if not dry_run:
                        await self._transfers.run(self._store.discard, blob.digest)
        return count, size

    async def _dispensable(self, digest: str) -> bool:
        if not await self._queries.run(self._catalog.namers, digest, 1):
            return True
        state = await self._queries.run(self._catalog.state, digest)
        return not state.quarantined and not await self._transfers.run(self._store.missing, [digest])


def _some(blobs: Iterator[Stored]) -> list[Stored]:
    return list(islice(blobs, _BATCH))
