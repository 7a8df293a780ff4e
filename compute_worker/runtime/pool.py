"""The rank pool: which adapter owns which rows, and for how long nobody may write there.

Owns grants, installs and leases. Rows that a lease, a route, a pin or an install holds are never
given to another; who goes of the others is the eviction's choice. Does not know names, selections or
how an adapter came into host memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextvars import copy_context

from compute_worker.contract import ActiveAdapter, Engine, HostAdapter
from compute_worker.runtime import costs
from compute_worker.runtime.api import Tier
from compute_worker.runtime.calm import Calm
from compute_worker.runtime.eviction import Eviction, Worth
from compute_worker.runtime.host import HostTier
from compute_worker.runtime.residency import Entry, Ledger
from compute_worker.runtime.rowline import RowLine, Ticket
from compute_worker.runtime.rows import Occupied, place_all
from compute_worker.runtime.version import Version
from compute_worker.runtime.waiting import Signal, until
from lorry.errors import CacheBusy, DeviceUnavailable, LorryError, QuotaExceeded

_log = logging.getLogger(__name__)

# The part of the rows that pins and routes leave to requests, where not everybody may do everything.
_LEFT = 1 / 4


class Lease:
    """Rows that stay as they are until released. adapters: as the engine takes them. vocab: tokens of the
    vocabulary that comes with them, None for the base's.
    """

    def __init__(self, entries: Sequence[Entry], weights: Sequence[float], released: Callable[[], None]) -> None:
        self.entries = tuple(entries)
        self.adapters = tuple(
            ActiveAdapter(entry.start, entry.rank, weight)
            for entry, weight in zip(entries, weights, strict=True)
            if entry.start is not None
        )
        # An adapter with a vocabulary of its own is alone.
        self.vocab = next((entry.vocab for entry in entries if entry.vocab is not None), None)
        self._released: Callable[[], None] | None = released
        for entry in entries:
            entry.leases += 1

    def release(self) -> None:
        """Let the rows go; no step may use them any more. A second time does nothing."""
        if self._released is not None:
            for entry in self.entries:
                entry.leases -= 1
            self._released()
            self._released = None


class Pool:
    """The rows. Belongs to the event loop; installs run in the executor's threads.

    patience: seconds that a call without a deadline waits for rows. eviction: told of each lease. served: what
    a tenant was served so far. room: told whenever rows may have become free.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        host: HostTier,
        executor: Executor,
        eviction: Eviction,
        *,
        served: Callable[[str], int],
        patience: float,
    ) -> None:
        self.rows = engine.limits.pool_rows
        self.room = Signal()
        self._engine = engine
        self._ledger = ledger
        self._host = host
        self._executor = executor
        self._eviction = eviction
        self._line = RowLine(served)
        self._patience = patience
        self._calm = Calm(executor)
        self._own = copy_context()  # of the worker itself: the pool is made for nobody's request

    @property
    def used(self) -> int:
        """Rows that are taken."""
        return sum(entry.rank for entry in self._ledger.entries.values() if entry.start is not None)

    async def lease(
        self,
        entries: Sequence[Entry],
        weights: Sequence[float],
        deadline: float | None,
        *,
        tenant: str = "",
        patient: bool = False,
    ) -> Lease:
        """A lease once all entries have rows; those that had none are being installed.

        All of them get rows at once or none does, so that two who hold a part each cannot wait for
        each other. The tenant that was served least comes first, of its calls the earliest; but nobody who
        needs no new rows waits, nor for who could not be placed whatever requests ended. It comes first for as
        long as patience lasts; a patient call waits until no other does, for half of its patience.
        Raises CacheBusy where no rows become free until the deadline.
        """
        now = time.monotonic()
        limit = now + self._patience if deadline is None else deadline
        # Where somebody always waits, who yields for good would never have its turn.
        begins = (now + limit) / 2 if patient else now
        ticket = Ticket(tenant, begins, begins + self._patience, patient)
        ended = asyncio.get_running_loop().call_later(ticket.ends - now, self.room.notify)
        self._line.join(ticket)
        try:
            async with until(limit, _busy):
                new = [entry for entry in entries if entry.start is None]
                while not self._grant(entries, first=self._line.is_first(ticket)):
                    self._despair(ticket, entries)
                    await self.room.wait()
                if new:
                    self._line.granted(ticket)
                self._note_use(entries)
                return Lease(entries, weights, self.room.notify)
        finally:
            ended.cancel()
            self._line.leave(ticket)
            self.room.notify()

    def _despair(self, ticket: Ticket, entries: Sequence[Entry]) -> None:
        """Let others come first where what routes and pins hold leaves no place for these."""
        if self._line.is_first(ticket) and not self._possible(entries):
            ticket.hopeless = True
            self.room.notify()

    def _possible(self, entries: Sequence[Entry]) -> bool:
        """Whether all of them would have rows if no request used any."""
        kept = [
            entry
            for entry in self._ledger.entries.values()
            if entry.start is not None and (entry.holds or entry.pinned) and entry not in entries
        ]
        movable = [entry for entry in kept if self._ledger.backed(entry)]
        fixed = [Occupied(entry.start or 0, entry.rank) for entry in kept if entry not in movable]
        return place_all([entry.rank for entry in (*entries, *movable)], self.rows, fixed) is not None

    def keep(self, versions: Sequence[Version]) -> None:
        """Keep what is in the pool from eviction, on behalf of a route."""
        for version in versions:
            self._ledger.entries[version.digest].holds += 1

    def let_go(self, versions: Sequence[Version]) -> None:
        """Undo one `keep` of the same versions."""
        for version in versions:
            self._ledger.entries[version.digest].holds -= 1
        self.freed()

    def check_share(self, versions: Iterable[Version], instead: Iterable[Version] = ()) -> None:
        """Raise QuotaExceeded where those whose rights have bounds may not keep these as well, or instead of a route's.

        What is kept for longer than a request is nobody else's: they keep no more once it is three quarters of the
        rows, whoever was first.
        """
        new, old = ({version.digest for version in each} for each in (versions, instead))
        entries = self._ledger.entries.items()
        before = sum(entry.rank for _, entry in entries if entry.pinned or entry.holds)
        rows = sum(e.rank for digest, e in entries if digest in new or e.pinned or e.holds > (digest in old))
        most = int(self.rows * (1 - _LEFT))
        if rows > max(most, before):
            raise QuotaExceeded(
                f"expected pins and routes to keep at most {most} of the pool's {self.rows} rows, "
                f"with these they would keep {rows}: unpin what is not needed, or have an administrator do it",
                limit=str(most),
                asked=str(rows),
            )

    def freed(self) -> None:
        """Somebody is held no longer, by a route or a pin."""
        self._line.hope()
        self.room.notify()

    def drop(self, entry: Entry) -> None:
        """Let its rows go: nobody uses them."""
        entry.start = None
        self._eviction.gone(entry.version.digest, evicted=False)
        self.freed()

    async def close(self) -> None:
        """Wait for what is being installed."""
        installing = [entry.installing for entry in self._ledger.entries.values() if entry.installing]
        await asyncio.gather(*installing, return_exceptions=True)
        self._calm.close()

    def _note_use(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            size = self._ledger.pool_bytes(entry)
            cost = costs.to_pool(entry, size, on_disk=self._ledger.on_disk(entry))
            self._eviction.used(entry.version.digest, size, cost)

    def _grant(self, entries: Sequence[Entry], *, first: bool) -> bool:
        new = [entry for entry in entries if entry.start is None]
        if not new:
            return True
        return first and (self._place(new, entries) or self._place([*new, *self._movable(entries)], entries))

    def _movable(self, entries: Sequence[Entry]) -> list[Entry]:
        """Who stays but could lie elsewhere: no step uses it, and what to install again is on this machine.

        Without this, one small adapter that a route holds in the middle of the pool would keep every
        large one out for good.
        """
        return [
            entry
            for entry in self._ledger.entries.values()
            if entry.in_pool
            and not entry.leases
            and (entry.holds or entry.pinned or entry in entries)
            and self._ledger.backed(entry)
        ]

    def _place(self, moving: Sequence[Entry], entries: Sequence[Entry]) -> bool:
        """Give rows to all of `moving`, or to none; whoever lies there and may go is evicted."""
        held = [entry for entry in self._ledger.entries.values() if entry.start is not None and entry not in moving]
        occupied = [
            Occupied(entry.start or 0, entry.rank, None if entry in entries else self._worth(entry)) for entry in held
        ]
        placements = place_all([entry.rank for entry in moving], self.rows, occupied)
        if placements is None:
            return False
        gone = {start for placement in placements for start in placement.evicted}
        for entry in [entry for entry in held if entry.start in gone]:
            entry.start = None
            self._eviction.gone(entry.version.digest, evicted=True)
            self._ledger.tally.evicted[Tier.POOL] += 1
            self._ledger.settle(entry)
        for entry, placement in zip(moving, placements, strict=True):
            if entry.start != placement.start:
                entry.start = placement.start
                # Who is moved for somebody else's sake is read again in the worker's name, where it has to be.
                context = None if entry in entries else self._own.copy()
                entry.installing = asyncio.create_task(self._install(entry.version, placement.start), context=context)
                entry.installing.add_done_callback(_seen)
        return True

    def _worth(self, entry: Entry) -> Worth | None:
        if entry.leases or entry.holds or entry.pinned or entry.installing:
            return None
        return self._eviction.worth(entry.version.digest)

    async def _install(self, version: Version, start: int) -> None:
        with self._ledger.using(version) as entry:
            try:
                host = await self._host.get(entry)
                since = time.monotonic()
                await asyncio.get_running_loop().run_in_executor(self._executor, self._write, host, start)
                entry.loads += 1
                self._ledger.tally.loads[Tier.POOL].add(time.monotonic() - since)
                self._calm.then(self._rest)
            except BaseException:
                self.drop(entry)
                raise
            finally:
                entry.installing = None
                self.room.notify()

    def _rest(self) -> None:
        self._engine.tidy()
        self._engine.prepare()

    def _write(self, host: HostAdapter, start: int) -> None:
        try:
            self._engine.install(host, start)
        except LorryError:
            raise
        except Exception as error:
            # Torch's own: most often a device without memory. What is resident is served on.
            _log.exception("an adapter of %d rows could not be installed", host.rank)
            raise DeviceUnavailable(f"the device did not take the adapter's {host.rank} rows") from error


def _busy() -> CacheBusy:
    return CacheBusy("every row of the pool that would do is in use or pinned, and stayed so")


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # seen, though everybody who waited may have gone
