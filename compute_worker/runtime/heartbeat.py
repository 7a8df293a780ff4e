"""What this worker tells the registry: which versions it uses, so that nobody deletes them unawares.

Owns the beat: every 20 seconds, and soon behind each change of what is used. What the answer says was
deleted or yanked is withdrawn, as if its event had come. A registry that is away changes nothing: what
is here is served on. Does not know the wire.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from compute_worker.contract import AdapterSource
from compute_worker.runtime.residency import Entry, Ledger
from lorry.errors import LorryError
from lorry.format.reference import Reference, parse_reference

_log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
# Two beats may be lost before a lease runs out.
_BEAT_SECONDS = 20.0
# From a change to its beat. A beat tells all that is used, and the registry writes all of it down: loads in a row
# share one, and none takes the processor from the request that an adapter was loaded for.
_GATHER_SECONDS = 0.5
# As RenewLeases takes.
_MAX_LEASES = 4096
# The last word of a worker that stops; a registry that does not take it lets the leases run out.
_LAST_WORD_SECONDS = 2.0


class Heartbeat:
    """Belongs to the event loop. holder: this worker's name at the registry.

    kept: exact references that are used besides what is near the base, by sessions.
    withdraw: called with an exact reference and the reason of its yank, None for a deletion.
    """

    def __init__(
        self,
        source: AdapterSource,
        ledger: Ledger,
        kept: Callable[[], Iterable[str]],
        holder: str,
        withdraw: Callable[[Reference, str | None], None],
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._kept = kept
        self._holder = holder
        self._withdraw = withdraw
        self._beating: asyncio.Task[None] | None = None
        self._due = False
        self._heard = True

    def start(self) -> None:
        """Beat from now on."""
        self._beating = asyncio.create_task(self._beat())

    def now(self) -> None:
        """Beat at once: the registry is back."""
        self._due = True
        self._ledger.changed.notify()

    async def close(self) -> None:
        """Beat no more, and let everything go."""
        if self._beating is None:
            return
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        with suppress(LorryError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                await self._source.renew(self._holder, [], LEASE_SECONDS)

    async def _beat(self) -> None:
        while True:
            self._due, using = False, self._using()
            try:
                await self._renew(using)
                self._heard = True
            except LorryError as error:
                _log.log(logging.WARNING if self._heard else logging.DEBUG, "the registry took no heartbeat: %s", error)
                self._heard = False
            with suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_SECONDS):
                    await self._changed(using)

    async def _changed(self, using: list[str]) -> None:
        """Until something else is used, and a little longer, or a beat is due at once."""
        while not self._due and self._using() == using:
            await self._ledger.changed.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GATHER_SECONDS):
                while not self._due:
                    await self._ledger.changed.wait()

    async def _renew(self, using: list[str]) -> None:
        answer = await self._source.renew(self._holder, using, LEASE_SECONDS)
        for reference in answer.missing:
            self._withdraw(parse_reference(reference), None)
        for reference in answer.yanked:
            published = await self._source.resolve(reference)
            if published.yank_reason is not None:
                self._withdraw(parse_reference(reference), published.yank_reason)

    def _using(self) -> list[str]:
        """Exact references of what is in pool or host memory, or kept by a route, a pin or a session."""
        near = [entry for entry in self._ledger.entries.values() if _used(entry)]
        near.sort(key=lambda entry: -entry.used)
        exact = [f"{a.namespace}/{a.name}@{e.version.digest}" for e in near for a in sorted(e.adapters)]
        return sorted(list(dict.fromkeys([*exact, *self._kept()]))[:_MAX_LEASES])


def _used(entry: Entry) -> bool:
    return entry.start is not None or entry.host is not None or entry.holds > 0 or entry.pinned
