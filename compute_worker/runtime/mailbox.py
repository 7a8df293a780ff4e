"""Where the engine's thread leaves a request's events, until the request's own task takes them.

Owns one queue and one clock for each request, what wakes its task, and what happens at once when it is out.
Belongs to the event loop. Does not know what the events say to the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compute_worker.contract import Drawn
from compute_worker.runtime.job import Admitted, Event, Job, Left
from compute_worker.runtime.loop import EngineLoop
from lorry.errors import CacheBusy, Cancelled, LorryError


def no_room() -> CacheBusy:
    """What ends a request that did not begin in time."""
    return CacheBusy("no room in the batch or in the KV cache became free in time")


# An answer that nobody reads is kept for so long once it is complete: with log-probabilities it may have megabytes,
# and what it was computed with serves others already.
UNREAD_SECONDS = 60.0


class Mailbox:
    """admitted: called when the request does not wait any more. released: when it is out. gather: tokens that
    wait for each other; whatever else happens does not wait.
    """

    def __init__(self, admitted: Callable[[], None], released: Callable[[], None], gather: int = 1) -> None:
        self.left = False
        self._admitted = admitted
        self._released = released
        self._gather = gather
        self._events: list[Event | LorryError] = []
        self._awake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def take(self, event: Event) -> None:
        """Take an event. Called on the event loop."""
        if isinstance(event, Admitted | Left):
            self._admitted()
        if isinstance(event, Left):
            self.left = True
            self._released()
            self._unread = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._drop)
        self._put(event)

    def _put(self, event: Event | LorryError) -> None:
        self._events.append(event)
        if len(self._events) >= self._gather or not isinstance(event, Drawn):
            self._awake.set()

    def limit(self, moment: float | None, error: LorryError) -> None:
        """Put `error` among the events at this moment (time.monotonic()'s clock), in place of an earlier limit."""
        self.stop_clock()
        if moment is not None:
            delay = max(0.0, moment - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._put, error)

    def _drop(self) -> None:
        if self._events:
            self._events = [Cancelled(f"the answer was complete for {UNREAD_SECONDS:.0f} seconds and nobody read it")]

    def stop_clock(self) -> None:
        """No limit any more."""
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Nobody takes anything out any more."""
        self.stop_clock()
        if self._unread is not None:
            self._unread.cancel()

    async def events(self) -> list[Event | LorryError]:
        """Everything that came since; waits for something that does not wait, or for enough tokens."""
        await self._awake.wait()
        self._awake.clear()
        events, self._events = self._events, []
        return events


@contextmanager
def submitted(loop: EngineLoop, job: Job, mailbox: Mailbox) -> Iterator[None]:
    """The job is in the engine's hands for the time of the block: taken back where it has not left by then."""
    loop.submit(job)
    try:
        yield
    finally:
        mailbox.close()
        if not mailbox.left:
            loop.cancel(job)
