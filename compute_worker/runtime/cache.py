"""The tiers together: pool rows over host memory over disk.

Owns what it means to load, lease, pin and unload an adapter. What is loaded is loaded once however
many wait for it. Does not know how names become versions, nor routes or the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack

from compute_worker.runtime.api import ResidentState, Tier
from compute_worker.runtime.disk import DiskCache
from compute_worker.runtime.host import HostTier
from compute_worker.runtime.known import Known
from compute_worker.runtime.loader import Loader
from compute_worker.runtime.pool import Lease, Pool
from compute_worker.runtime.residency import Entry, Ledger
from compute_worker.runtime.rights import rights
from compute_worker.runtime.tokenizers import spokesman
from compute_worker.runtime.version import Choice, Version
from compute_worker.runtime.waiting import until
from lorry.errors import (
    AdapterInUse,
    AdapterPinned,
    DeadlineExceeded,
    InvalidSelection,
    RequestTooLarge,
    StorageUnavailable,
    VersionNotFound,
)
from lorry.format.facts import AdapterFacts
from lorry.format.reference import AdapterName

_log = logging.getLogger(__name__)
_LISTED = 3  # modules that a refusal names


class AdapterCache:
    """Makes adapters usable by the next step. Belongs to the event loop.

    made: digests of the files of combinations. patience: seconds that `unload` waits for the requests
    in flight.
    """

    def __init__(  # noqa: PLR0913 - the tiers, and what fills them
        self,
        ledger: Ledger,
        disk: DiskCache,
        host: HostTier,
        pool: Pool,
        known: Known,
        loader: Loader,
        *,
        made: Callable[[], AbstractSet[str]],
        patience: float,
    ) -> None:
        self._ledger = ledger
        self._disk = disk
        self._host = host
        self._pool = pool
        self._known = known
        self._loader = loader
        self._made = made
        self._patience = patience

    async def acquire(
        self, choices: Sequence[Choice], deadline: float | None, *, tenant: str = "", patient: bool = False
    ) -> Lease:
        """A lease on all of the choices, loaded where they were not in the pool. As `acquire_each`."""
        return await self.acquire_each([choices], deadline, tenant=tenant, patient=patient)

    async def acquire_each(
        self,
        selections: Sequence[Sequence[Choice]],
        deadline: float | None,
        *,
        tenant: str = "",
        patient: bool = False,
    ) -> Lease:
        """A lease on what several selections need, which are not active together; the rows at once or none.

        tenant: whose turn it is where rows are short. patient: let everybody else have rows first. Raises what
        loading raises, InvalidSelection (an exclusive adapter beside another, or weighted; tokenizers that
        differ), RequestTooLarge, CacheBusy (no rows free until the deadline), DeadlineExceeded (not loaded
        by then).
        """
        choices = list({choice.version.digest: choice for chosen in selections for choice in chosen}.values())
        with ExitStack() as stack:
            entries = [stack.enter_context(self._ledger.using(choice.version)) for choice in choices]
            for entry, choice in zip(entries, choices, strict=True):
                entry.hits += entry.in_pool
                self._ledger.tally.found[self._ledger.whereabouts(entry)] += 1
                self._ledger.touch(entry, choice)
            async with until(deadline, _late):
                await asyncio.gather(*map(self._bring, entries))
            for chosen in selections:
                self._check_together(chosen)
            rows = sum(entry.rank for entry in entries)
            if rows > self._pool.rows:
                raise RequestTooLarge(f"the pool has {self._pool.rows} rows, the selection needs {rows}")
            weights = [choice.weight for choice in choices]
            lease = await self._pool.lease(entries, weights, deadline, tenant=tenant, patient=patient)
            try:
                async with until(deadline, _late):
                    await _installed(entries)
            except BaseException:
                lease.release()
                raise
            for entry in entries:
                self._keep(entry)
            return lease

    async def _bring(self, entry: Entry) -> None:
        """Have what is to be installed; what is in the pool is judged again: a family may carry over no more."""
        if entry.start is None:
            await self._host.get(entry)
        await self._loader.check_base(entry.version)

    async def load(self, choice: Choice, tier: Tier = Tier.POOL) -> ResidentState:
        """Bring an adapter into a tier, where it is not in a nearer one. Raises as `acquire`."""
        if tier is Tier.POOL:
            lease = await self.acquire([choice], None, patient=True)
            lease.release()
            return self._ledger.state(lease.entries[0])
        with self._ledger.using(choice.version) as entry:
            self._ledger.touch(entry, choice)
            if entry.start is None and tier is Tier.HOST:
                await self._host.get(entry)
            elif entry.start is None and entry.host is None:
                entry.facts = await self._loader.examine(entry.version, known=entry.facts is not None)
            self._keep(entry)
            return self._ledger.state(entry)

    async def pin(self, choice: Choice, ttl: float | None) -> ResidentState:
        """Load an adapter and keep it for `ttl` seconds, None: until `unpin`.

        Raises as `acquire` and Pool.check_share, VersionNotFound where it was deleted meanwhile.
        """
        lease = await self.acquire([choice], None, patient=True)
        lease.release()
        entry = lease.entries[0]
        if choice.exact is not None and choice.exact.adapter not in entry.adapters:
            raise VersionNotFound(f"{choice.exact} was deleted while it was being loaded")
        if not rights().boundless:
            self._pool.check_share([choice.version])
        self._set_pin(entry, pinned=True)
        if ttl is not None:
            entry.pin_timer = asyncio.get_running_loop().call_later(ttl, lambda: self._set_pin(entry, pinned=False))
        return self._ledger.state(entry)

    def unpin(self, version: Version) -> ResidentState:
        """Let an adapter be evicted again; one that is not held at all comes back as GONE."""
        with self._ledger.using(version) as entry:
            self._set_pin(entry, pinned=False)
            return self._ledger.state(entry)

    async def unload(self, version: Version) -> bool:
        """Drop an adapter from pool and host memory, after the requests that use it.

        Answers whether there was anything to drop. Raises AdapterPinned, AdapterInUse (a route
        holds it, or requests did for as long as was waited).
        """
        with self._ledger.using(version) as entry:

            def in_use() -> AdapterInUse:
                return AdapterInUse(f"{entry.leases} requests still use {version.digest}")

            async with until(time.monotonic() + self._patience, in_use):
                while _busy(entry):
                    await self._pool.room.wait()
            return self._drop(entry)

    async def retire(self, adapter: AdapterName, version: Version) -> None:
        """An adapter has this version no more: unless another has it, drop it once the last request has ended.

        A pin does not keep it. What lies on disk goes, too, but for files that other versions name.
        """
        with self._ledger.using(version) as entry:
            entry.adapters.discard(adapter)
            entry.retiring += 1
            try:
                await self._disused(entry)
            finally:
                entry.retiring -= 1
            if not entry.adapters:  # else published again meanwhile, or another adapter's as well
                self._set_pin(entry, pinned=False)
                self._drop(entry)
                self._discard(version)

    async def _disused(self, entry: Entry) -> None:
        """Until nobody uses an entry, or is about to, or an adapter has it again."""
        while not entry.adapters:
            if entry.users > entry.retiring:  # it is being loaded
                await entry.left.wait()
            elif entry.leases or entry.holds or entry.installing:
                await self._pool.room.wait()
            else:
                return

    def held(self, digest: str) -> Version | None:
        """The version, where it is near the base in any tier; else None."""
        entry = self._ledger.entries.get(digest)
        return None if entry is None else entry.version

    def pooled(self, digest: str) -> bool:
        """Whether it has rows of the pool."""
        entry = self._ledger.entries.get(digest)
        return entry is not None and entry.start is not None

    def _drop(self, entry: Entry) -> bool:
        resident = entry.start is not None or entry.host is not None
        self._host.drop(entry)
        self._pool.drop(entry)
        return resident

    def _keep(self, entry: Entry) -> None:
        if entry.version.combined:
            return
        try:
            self._known.keep(entry.version, entry.adapters)
        except StorageUnavailable as error:
            _log.warning("%s will have to be asked for after a restart: %s", entry.version.digest, error)

    def _discard(self, version: Version) -> None:
        near = (entry.version for entry in self._ledger.entries.values())
        others = {file.digest for other in near if other.digest != version.digest for file in other.manifest.files}
        for file in version.served:
            if file.digest not in others | self._known.named_by_others(version.digest) | self._made():
                self._disk.discard(file.digest)

    def _set_pin(self, entry: Entry, *, pinned: bool) -> None:
        if entry.pin_timer is not None:
            entry.pin_timer.cancel()
            entry.pin_timer = None
        entry.pinned = pinned
        self._ledger.settle(entry)
        self._pool.freed()

    def _check_together(self, choices: Sequence[Choice]) -> None:
        spokesman(choices)
        for choice in choices:
            entry = self._ledger.entries[choice.version.digest]
            if not entry.exclusive:
                continue
            what = f"{choice.adapter} {_why_alone(entry.facts)}"
            if len(choices) > 1:
                raise InvalidSelection(f"{what}: expected no other adapter beside it")
            if choice.weight != 1:
                raise InvalidSelection(f"{what}: expected weight 1, got {choice.weight}")


def _why_alone(facts: AdapterFacts | None) -> str:
    """What of an adapter has no meaning beside another, or by half."""
    if facts is not None and facts.saved:
        return f"replaces {', '.join(module.name for module in facts.saved[:_LISTED])}"
    if facts is not None and facts.tokens:
        return f"has tokens of its own in {', '.join(trained.name for trained in facts.tokens[:_LISTED])}"
    if facts is not None and facts.biases:
        return "has biases of its own in the place of the base's"
    return "is DoRA"


async def _installed(entries: Sequence[Entry]) -> None:
    for installing in [entry.installing for entry in entries if entry.installing]:
        await asyncio.shield(installing)


def _busy(entry: Entry) -> bool:
    if entry.pinned:
        raise AdapterPinned(f"{entry.version.digest} is pinned: unpin it first")
    if entry.holds:
        raise AdapterInUse(f"{entry.holds} routes use {entry.version.digest}: switch them first")
    return entry.leases > 0 or entry.installing is not None


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the adapters were not loaded before the deadline")
