"""The outbox as an endless stream of events.

Owns resume tokens and the polling. Polling, since events come from any process that shares the
database, and an index look-up costs 0.1 ms. Does not know the wire.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import suppress

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import Event
from adapter_registry.service.pool import Pool
from lorry.errors import Draining, InvalidResumeToken

# Half of it is the mean delay of an event; 100 watchers then cost 5 % of one core.
_POLL_SECONDS = 0.2
# Events fetched at once: bounds what a slow reader makes the server hold.
_BATCH = 500
_TOKEN = re.compile(r"0|[1-9][0-9]{0,17}")


class Watcher:
    """Streams events; ends with Draining once `draining` is set."""

    def __init__(self, catalog: Catalog, queries: Pool, draining: asyncio.Event) -> None:
        self._catalog = catalog
        self._queries = queries
        self._draining = draining

    async def watch(self, token: str, namespace: str | None) -> AsyncGenerator[Event, None]:
        """Events behind the one that `token` names, in commit order; an empty token means from now on.

        The token of an event is its sequence. Raises InvalidResumeToken, StorageUnavailable, and
        Draining when the server stops: go on with the last token elsewhere.
        """
        at = await self._start(token)
        while not self._draining.is_set():
            events, at = await self._queries.run(self._behind, at, namespace)
            for event in events:
                yield event
            if len(events) < _BATCH:
                await self._pause()
        raise Draining("the registry is stopping: watch again with the last resume token")

    def _behind(self, at: int, namespace: str | None) -> tuple[list[Event], int]:
        """The next events, and the sequence up to which everything has been seen then."""
        newest = self._catalog.last_event()
        events = self._catalog.events(at, namespace, _BATCH)
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

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), _POLL_SECONDS)
