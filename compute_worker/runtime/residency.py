"""What the worker holds of which adapter, in which tier, and who is told when that changes.

Owns the entries, their states as callers see them, and the watchers. Decides nothing: what is
loaded, kept or evicted is the cache's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from compute_worker.contract import HostAdapter
from compute_worker.runtime.api import ResidentState, Tier
from compute_worker.runtime.rights import Homes
from compute_worker.runtime.tally import Tally
from compute_worker.runtime.version import Choice, Version
from compute_worker.runtime.waiting import Signal
from lorry.errors import Draining, Lagging, LorryError
from lorry.format.facts import AdapterFacts, Variant
from lorry.format.reference import AdapterName

_MAX_NAMES = 8  # as the wire promises
# Changes that a watcher may be behind before it is told to start again: a few seconds of a worker
# that loads and evicts all the time.
_MAX_LAG = 1024

_Change = tuple[ResidentState, bool] | LorryError


@dataclass(eq=False, slots=True)
class Entry:
    """One adapter near the base.

    facts: known once it passed the guard. rows: of the pool that it takes, vocab: of its own vocabulary,
    None where it has the base's; both known once its tensors were read. start: its first pool row, where it
    has rows; they are being written while `installing` runs. leases: requests that use its rows. holds:
    routes that keep it. users: calls that are at work on the entry itself, of these retiring: that wait to drop it;
    left: told when one of them is done. adapters: of the registry, under
    which it was asked for. used: grows with every use.
    """

    version: Version
    facts: AdapterFacts | None = None
    exclusive: bool = False
    rows: int | None = None
    vocab: int | None = None
    host: HostAdapter | None = None
    start: int | None = None
    installing: asyncio.Task[None] | None = None
    leases: int = 0
    holds: int = 0
    pinned: bool = False
    pin_timer: asyncio.TimerHandle | None = None
    users: int = 0
    retiring: int = 0
    left: Signal = field(default_factory=Signal)
    names: list[str] = field(default_factory=list)
    adapters: set[AdapterName] = field(default_factory=set)
    hits: int = 0
    loads: int = 0
    used: int = 0
    last_used: datetime = field(default_factory=lambda: datetime.now(UTC))
    told: tuple[Tier, bool] = (Tier.GONE, False)

    @property
    def rank(self) -> int:
        """Pool rows that it takes; as far as is known before its tensors were read."""
        if self.rows is not None:
            return self.rows
        return self.version.manifest.rank if self.facts is None else self.facts.rank

    @property
    def invocation(self) -> tuple[int, ...]:
        """The tokens from which on it is active, none where it always is."""
        return self.facts.invocation if self.facts else ()

    @property
    def needed(self) -> bool:
        """Whether somebody counts on finding the entry again."""
        return bool(self.users or self.leases or self.holds or self.pinned or self.start is not None)

    @property
    def homes(self) -> Homes:
        """The namespaces that decide who may know of it."""
        if self.version.combined:
            return self.version.homes
        return (frozenset(adapter.namespace for adapter in self.adapters),)

    @property
    def in_pool(self) -> bool:
        """Whether the next step can use it."""
        return self.start is not None and self.installing is None


class Ledger:
    """The entries by digest. Belongs to the event loop.

    row_bytes: bytes of a pool row. on_disk: whether a file lies in the disk cache. changed: told
    whenever an adapter came, went, or changed its tier.
    """

    def __init__(self, row_bytes: int, on_disk: Callable[[str], bool]) -> None:
        self.entries: dict[str, Entry] = {}
        self.changed = Signal()
        self.tally = Tally()
        self._row_bytes = row_bytes
        self._on_disk = on_disk
        self._clock = 0
        self._watchers: set[asyncio.Queue[_Change]] = set()

    @contextmanager
    def using(self, version: Version) -> Iterator[Entry]:
        """The entry of a version, made where there is none, and not forgotten while the block runs."""
        entry = self.entries.setdefault(version.digest, Entry(version))
        entry.version = version
        entry.users += 1
        try:
            yield entry
        finally:
            entry.users -= 1
            entry.left.notify()
            self.settle(entry)

    def touch(self, entry: Entry, choice: Choice) -> None:
        """Note a use, and under which name."""
        self._clock += 1
        entry.used = self._clock
        entry.last_used = datetime.now(UTC)
        entry.names = [choice.adapter, *(other for other in entry.names if other != choice.adapter)][:_MAX_NAMES]
        if choice.exact is not None:
            entry.adapters.add(choice.exact.adapter)

    def settle(self, entry: Entry) -> None:
        """Tell watchers what changed about an entry, and forget one that is gone."""
        now = (self._tier(entry), entry.pinned)
        if now != entry.told:
            entry.told = now
            self._tell(entry)
            self.changed.notify()
        if now[0] is Tier.GONE and not entry.needed:
            self.entries.pop(entry.version.digest, None)

    def file_dropped(self, digest: str) -> None:
        """A file left the disk cache."""
        for entry in list(self.entries.values()):
            if any(file.digest == digest for file in entry.version.manifest.files):
                self.settle(entry)

    def backed(self, entry: Entry) -> bool:
        """Whether a tier below the pool has it, so that it can be installed without the registry."""
        return entry.host is not None or self.on_disk(entry)

    def on_disk(self, entry: Entry) -> bool:
        """Whether its files lie in the disk cache, looked at by the guard or not."""
        return all(self._on_disk(file.digest) for file in entry.version.served)

    def pool_bytes(self, entry: Entry) -> int:
        """Bytes of the pool rows that it takes where it is there."""
        return entry.rank * self._row_bytes

    def whereabouts(self, entry: Entry) -> Tier:
        """The fastest tier that has all of it, looked at by the guard or not."""
        if entry.start is not None:
            return Tier.POOL
        if entry.host is not None:
            return Tier.HOST
        return Tier.DISK if self.backed(entry) else Tier.GONE

    def states(self) -> list[ResidentState]:
        """Everything that is held, most recently used first."""
        held = [entry for entry in self.entries.values() if entry.told[0] is not Tier.GONE]
        return [self.state(entry) for entry in sorted(held, key=lambda entry: -entry.used)]

    def state(self, entry: Entry) -> ResidentState:
        """One entry as callers see it."""
        facts, manifest = entry.facts, entry.version.manifest
        tier = self._tier(entry)
        return ResidentState(
            digest=entry.version.digest,
            names=tuple(entry.names),
            tier=tier,
            rank=entry.rank,
            size=self._size(entry, tier),
            variant=Variant(manifest.variant) if facts is None else facts.variant,
            leases=entry.leases,
            pinned=entry.pinned,
            hits=entry.hits,
            loads=entry.loads,
            last_used=entry.last_used,
            combined=entry.version.combined,
            homes=entry.homes,
        )

    async def watch(self) -> AsyncGenerator[tuple[ResidentState, bool], None]:
        """Everything as it is (flag True), then each change of tier or pin. Raises Lagging, Draining."""
        changes: asyncio.Queue[_Change] = asyncio.Queue()
        for state in self.states():
            changes.put_nowait((state, True))
        self._watchers.add(changes)
        try:
            while True:
                change = await changes.get()
                if isinstance(change, LorryError):
                    raise change
                yield change
        finally:
            self._watchers.discard(changes)

    def close(self) -> None:
        """End every watch, and every pin's clock."""
        self._end(self._watchers, Draining("the worker is stopping"))
        for entry in self.entries.values():
            if entry.pin_timer is not None:
                entry.pin_timer.cancel()

    def _tell(self, entry: Entry) -> None:
        self._end(
            {changes for changes in self._watchers if changes.qsize() > _MAX_LAG},
            Lagging(f"the watcher was more than {_MAX_LAG} changes behind: start again"),
        )
        for changes in self._watchers:
            changes.put_nowait((self.state(entry), False))

    def _end(self, watchers: set[asyncio.Queue[_Change]], error: LorryError) -> None:
        for changes in watchers:
            changes.put_nowait(error)
        self._watchers = self._watchers - watchers

    def _tier(self, entry: Entry) -> Tier:
        if entry.facts is None:
            return Tier.GONE  # whatever lies on disk has not passed the guard
        if entry.in_pool:
            return Tier.POOL
        if entry.host is not None:
            return Tier.HOST
        return Tier.DISK if self.backed(entry) else Tier.GONE

    def _size(self, entry: Entry, tier: Tier) -> int:
        if tier is Tier.POOL:
            return self.pool_bytes(entry)
        if tier is Tier.HOST and entry.host is not None:
            return entry.host.nbytes
        return sum(file.size for file in entry.version.served) if tier is Tier.DISK else 0
