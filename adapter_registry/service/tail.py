"""The end of the outbox, read once for everybody who watches it.

Owns the newest events in memory, when it is worth looking for more, and who is told. One look serves
all watchers of this process. Does not know who watches what, or resume tokens.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

from adapter_registry.domain.catalog import Catalog, Listening
from adapter_registry.domain.records import Event
from adapter_registry.service.pool import Pool
from lorry.errors import LorryError, ResumeTokenExpired, StorageUnavailable

_log = logging.getLogger(__name__)

# How often to look unasked: where every commit wakes us, only to find out that none does any more; else
# half of it is the mean delay of what other processes wrote. A look costs less than a millisecond.
_CALM_SECONDS, _POLL_SECONDS = 5.0, 0.2
# Between two looks at the least: a burst of commits is read together.
_PAUSE_SECONDS = 0.01
# Events kept, some 0.5 MB. Whoever is farther behind reads them from the catalogue.
_KEPT = 1_000


class Tail:
    """All events behind sequence `start`, as far as they are known here."""

    def __init__(self, catalog: Catalog, queries: Pool, draining: asyncio.Event) -> None:
        self._catalog = catalog
        self._queries = queries
        self._draining = draining
        self._events: list[Event] = []
        self._start = self._end = -1
        self.followers = 0  # how many want to know
        self._failure = ""
        self._look = asyncio.Event()
        self._news = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for events for the time of the block; tell everybody when the registry drains."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                loop.call_soon_threadsafe(self._look.set)

        listening = await self._queries.run(self._catalog.listen, wake)
        tasks = [asyncio.create_task(self._read(listening)), asyncio.create_task(self._end_with_drain())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._queries.run(listening.close)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Somebody wants to know, for the time of the block."""
        self.followers += 1
        self._look.set()
        try:
            yield
        finally:
            self.followers -= 1

    def covers(self, sequence: int) -> bool:
        """Whether all that comes behind this event is here, or will be."""
        return 0 <= self._start <= sequence

    def behind(self, sequence: int) -> Sequence[Event]:
        """The events behind this one that are known, in commit order."""
        return self._events[bisect_right(self._events, sequence, key=_sequence) :]

    async def news(self, sequence: int) -> None:
        """Wait until there are events behind this one, or the registry drains.

        Raises StorageUnavailable while the catalogue does not answer: what happens then is not seen.
        """
        while self._end <= sequence and not self._draining.is_set():
            if self._failure:
                raise StorageUnavailable(self._failure)
            await self._news.wait()

    async def _end_with_drain(self) -> None:
        await self._draining.wait()
        self._tell()

    async def _read(self, listening: Listening) -> None:
        try:
            while True:
                await self._find()
                await asyncio.sleep(_PAUSE_SECONDS)
                # Not wait_for: in Python 3.11 that swallows a cancellation that comes together with what it waits for.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._patience(listening)):
                        await self._look.wait()
        except Exception:
            self._fail("expected events to be read, a defect ended it")  # nobody must wait for them
            raise

    def _patience(self, listening: Listening) -> float | None:
        if not self.followers:
            return None
        return _CALM_SECONDS if listening.live and not self._failure else _POLL_SECONDS

    async def _find(self) -> None:
        self._look.clear()
        try:
            events, end = await self._queries.run(self._newest, self._end)
        except LorryError as error:
            self._fail(error.message)
            return
        self._failure = ""
        if end != self._end:
            self._take(events, end)
            self._tell()

    def _newest(self, end: int) -> tuple[Sequence[Event] | None, int]:
        """The events behind `end` and where they end; None where they are too many, or gone already."""
        newest = self._catalog.last_event()
        if not 0 <= newest - end <= _KEPT or end < 0:
            return None, newest
        try:
            events = self._catalog.events(end, None, _KEPT)
        except ResumeTokenExpired:
            return None, newest
        return events, max([newest, *(event.sequence for event in events[-1:])])

    def _take(self, events: Sequence[Event] | None, end: int) -> None:
        if events is None:
            self._events, self._start = [], end
        else:
            self._events += events
            gone = self._events[:-_KEPT]
            if gone:
                self._start = gone[-1].sequence
                del self._events[: len(gone)]
        self._end = end

    def _fail(self, message: str) -> None:
        if not self._failure:
            _log.warning("events are not seen: %s", message)
        self._failure = message
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _sequence(event: Event) -> int:
    return event.sequence
