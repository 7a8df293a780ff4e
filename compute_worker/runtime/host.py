"""The host tier: parsed adapters in host memory, within a budget of bytes.

Owns reading by single flight and what of it is kept: the budget counts what is kept, and the eviction,
which hears of what is asked for here and not of what the pool has, says what goes first. Does not know
pool rows or leases; a copy here is never in use by a step.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from compute_worker.contract import HostAdapter
from compute_worker.runtime import costs
from compute_worker.runtime.api import Tier
from compute_worker.runtime.eviction import Eviction
from compute_worker.runtime.loader import Loader
from compute_worker.runtime.residency import Entry, Ledger
from compute_worker.runtime.version import Version
from compute_worker.runtime.waiting import SingleFlight


class HostTier:
    """Adapters ready to be installed. Belongs to the event loop. budget: bytes."""

    def __init__(self, loader: Loader, ledger: Ledger, eviction: Eviction, budget: int) -> None:
        self.budget = budget
        self._loader = loader
        self._ledger = ledger
        self._eviction = eviction
        self._flight: SingleFlight[HostAdapter] = SingleFlight()

    @property
    def used(self) -> int:
        """Bytes that are kept."""
        return _bytes(self._ledger.entries.values())

    async def get(self, entry: Entry) -> HostAdapter:
        """The adapter's tensors, read where they are not kept. Raises as Loader.load."""
        if entry.host is not None:
            self._note_use(entry, entry.host)
            return entry.host
        version = entry.version
        return await self._flight.run(version.digest, lambda: self._read(version))

    async def close(self) -> None:
        """Stop reading."""
        await self._flight.close()

    async def _read(self, version: Version) -> HostAdapter:
        with self._ledger.using(version) as entry:
            since = time.monotonic()
            facts, host = await self._loader.load(version, known=entry.facts is not None)
            self._ledger.tally.loads[Tier.HOST].add(time.monotonic() - since)
            entry.facts, entry.exclusive, entry.rows, entry.vocab = facts, host.exclusive, host.rank, host.vocab
            if self._make_room(host.nbytes):
                entry.host = host
                self._note_use(entry, host)
            return host

    def drop(self, entry: Entry) -> None:
        """Let a copy go."""
        entry.host = None
        self._eviction.gone(entry.version.digest, evicted=False)

    def _note_use(self, entry: Entry, host: HostAdapter) -> None:
        cost = costs.to_host(entry, on_disk=self._ledger.on_disk(entry))
        self._eviction.used(entry.version.digest, host.nbytes, cost)

    def _make_room(self, size: int) -> bool:
        """Drop copies until another of `size` bytes fits; False where it does not.

        A copy of what routes and pins keep in the pool stays: with it, the rows can be moved.
        """
        staying = [entry for entry in self._kept() if entry.holds or entry.pinned]
        if size + _bytes(staying) > self.budget:
            return False
        for entry in sorted(self._kept(), key=lambda entry: self._eviction.worth(entry.version.digest)):
            if self.used + size <= self.budget:
                break
            if entry not in staying:
                entry.host = None
                self._eviction.gone(entry.version.digest, evicted=True)
                self._ledger.tally.evicted[Tier.HOST] += 1
                self._ledger.settle(entry)
        return True

    def _kept(self) -> list[Entry]:
        return [entry for entry in self._ledger.entries.values() if entry.host is not None]


def _bytes(entries: Iterable[Entry]) -> int:
    return sum(entry.host.nbytes for entry in entries if entry.host is not None)
