"""The outbox as an endless stream of events, for somebody who may read some namespaces.

Owns resume tokens, which events a watcher gets, and when it is judged again whether it may have them.
What is new comes out of the shared tail, what is older out of the catalogue. Does not know the wire.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TypeAlias

from adapter_registry.domain.acting import Permission, actor
from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import Event
from adapter_registry.service.pool import Pool
from adapter_registry.service.tail import Tail
from lorry.errors import Draining, InvalidResumeToken

# Events fetched at once: bounds what a slow reader makes the server hold, and what it gets after its rights went.
_BATCH = 500
# A watcher that nothing is sent to is judged as often: one look-up each, and nobody hears more for it.
_JUDGED_SECONDS = 10.0
_TOKEN = re.compile(r"0|[1-9][0-9]{0,17}")
# The namespace of events that concern bases: everybody may know bases.
_BASES = ""

# Makes the caller act again, with the rights that it has now; raises where it has lost its own name.
Judge: TypeAlias = Callable[[], Awaitable[None]]


async def _trusted() -> None:
    """Who acts stays who it was: the registry itself."""


class Watcher:
    """Streams events; ends with Draining once `draining` is set."""

    def __init__(self, catalog: Catalog, queries: Pool, draining: asyncio.Event) -> None:
        self._catalog = catalog
        self._queries = queries
        self._draining = draining
        self._tail = Tail(catalog, queries, draining)

    @property
    def watchers(self) -> int:
        """How many watches run now."""
        return self._tail.followers

    def running(self) -> AbstractAsyncContextManager[None]:
        """Watches get events for the time of the block."""
        return self._tail.running()

    async def watch(self, token: str, namespace: str | None, judge: Judge = _trusted) -> AsyncGenerator[Event, None]:
        """Events behind the one that `token` names, in commit order; an empty token means from now on.

        The token of an event is its sequence. None: all namespaces that the acting principal may read
        when they are sent, and bases. Raises what `judge` raises, PermissionDenied, InvalidResumeToken,
        ResumeTokenExpired, StorageUnavailable, and Draining when the server stops: go on with the last
        token elsewhere.
        """

        async def wanted() -> frozenset[str] | None:
            await judge()
            return _readable(namespace)

        _readable(namespace)
        with self._tail.followed():
            at = await self._start(token)
            while not self._draining.is_set():
                events, at = await self._next(at, wanted)
                for event in events:
                    yield event
        raise Draining("the registry is stopping: watch again with the last resume token")

    async def _next(
        self, at: int, wanted: Callable[[], Awaitable[frozenset[str] | None]]
    ) -> tuple[Sequence[Event], int]:
        """Some events behind `at`, none of them skipped, and up to where all have been seen then.

        wanted: the namespaces, asked for when there is something to choose from, or nothing for long.
        """
        if not self._tail.covers(at):
            events, seen = await self._queries.run(self._behind, at, await wanted())
            if seen > at:
                return events, seen
        with suppress(TimeoutError):
            async with asyncio.timeout(_JUDGED_SECONDS):
                await self._tail.news(at)
        namespaces = await wanted()
        if not self._tail.covers(at):
            return (), at  # it lost sight of so many at once
        events = self._tail.behind(at)[:_BATCH]
        if not events:
            return (), at
        return [event for event in events if namespaces is None or event.namespace in namespaces], events[-1].sequence

    def _behind(self, at: int, wanted: frozenset[str] | None) -> tuple[Sequence[Event], int]:
        newest = self._catalog.last_event()
        events = self._catalog.events(at, wanted, _BATCH)
        # Sequences rise in commit order, so a batch that is not full holds all up to `newest`:
        # events of other namespaces are not looked at again and again.
        seen = [event.sequence for event in events[-1:]] + ([newest] if len(events) < _BATCH else [])
        return events, max(at, *seen)

    async def _start(self, token: str) -> int:
        newest = await self._queries.run(self._catalog.last_event)
        if not token:
            return newest
        if not _TOKEN.fullmatch(token) or int(token) > newest:
            raise InvalidResumeToken(f"expected resume_token of an earlier event, or 0, got {token[:40]!r}")
        return int(token)


def _readable(namespace: str | None) -> frozenset[str] | None:
    """The namespaces whose events the acting principal wants and may have; None means all."""
    rights = actor().rights
    if namespace is not None:
        rights.require(Permission.READ, namespace)
        return frozenset({namespace})
    readable = rights.where(Permission.READ)
    return None if readable is None else readable | {_BASES}
