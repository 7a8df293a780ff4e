"""The engine's thread: plan, step, deliver, and again.

Owns the only thread that touches scheduler and KV, and the two ways across: an inbox towards it,
one `call_soon_threadsafe` a step away from it (a second where requests join or leave). Does not
know requests beyond the scheduler's Job, and not what a step computes.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from compute_worker.contract import Engine
from compute_worker.runtime.job import Job, Left, Outcome, Planned
from compute_worker.runtime.scheduler import Scheduler
from lorry.errors import Draining, Internal, LorryError

_log = logging.getLogger(__name__)


class EngineLoop:
    """Runs the scheduler's steps on the engine, in a thread of its own, until closed. broken: it ended by itself."""

    def __init__(self, engine: Engine, scheduler: Scheduler) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._inbox: queue.SimpleQueue[Callable[[], Sequence[Outcome] | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._over: LorryError | None = None  # told to the callers' side
        self._closed = False  # the thread's own
        self.broken = asyncio.Event()

    def start(self) -> None:
        """Start the thread; events go to the event loop that runs now."""
        # A daemon, so that a process whose event loop died does not stay behind for its sake.
        self._thread = threading.Thread(
            target=self._run, args=(asyncio.get_running_loop(),), name="lorry-engine", daemon=True
        )
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a request. From here on its sink gets events, the last of which is Left."""
        if self._over is not None:
            job.sink(Left(error=self._over))
        else:
            self._inbox.put(lambda: self._scheduler.submit(job))

    def cancel(self, job: Job) -> None:
        """Take a request out before the next step; Left follows unless it has come already."""
        self._inbox.put(lambda: self._scheduler.cancel(job))

    async def close(self) -> None:
        """Fail what still waits or runs with Draining, and end the thread."""
        self._over = self._over or Draining("the worker is stopping")
        if self._thread is not None:
            self._inbox.put(lambda: self._close(Draining("the worker is stopping")))
            await asyncio.to_thread(self._thread.join)

    def _close(self, error: LorryError) -> list[Outcome]:
        self._closed = True
        return self._scheduler.cancel_all(error)

    def _run(self, events: asyncio.AbstractEventLoop) -> None:
        try:
            while not self._closed:
                # Who joined or left is told before the step, which may be long: what a cancelled request
                # held is free at once, and an admitted one knows that it no longer waits.
                _hand_over(events, self._take_orders() + self._scheduler.admit())
                planned = self._scheduler.plan()
                if planned:
                    _hand_over(events, self._step(planned))
        except BaseException:  # noqa: BLE001 - whatever it was, callers do not wait for a thread that is not there
            _log.critical("the engine's thread has ended", exc_info=True)
            events.call_soon_threadsafe(self._break)

    def _break(self) -> None:
        """Nothing runs any more, and nothing will: everybody is told, and whoever watches over the worker."""
        self._over = Internal("the engine's thread has ended")
        self.broken.set()
        while not self._inbox.empty():
            _deliver(self._inbox.get()() or ())
        _deliver(self._close(self._over))

    def _take_orders(self) -> list[Outcome]:
        """What came in, at least one order where there is nothing else to do."""
        outcomes: list[Outcome] = []
        if not self._scheduler.busy:
            while self._inbox.empty() and self._engine.extend(self._scheduler.blocks.expected):
                pass  # memory of the next requests' KV, a piece at a time
            outcomes += self._inbox.get()() or ()
        while not self._inbox.empty():
            outcomes += self._inbox.get()() or ()
        return outcomes

    def _step(self, planned: Sequence[Planned]) -> Sequence[Outcome]:
        since = time.monotonic()
        try:
            computed = self._engine.step([row for _, row in planned])
        except Exception:  # noqa: BLE001 - becomes the typed failure of whoever it is that the engine fails for
            _log.exception("a step of %d rows failed", len(planned))
            self._scheduler.steps.failed += 1
            return self._apart(planned)
        outcomes: list[Outcome] = []
        try:
            outcomes.extend(self._scheduler.apply(planned, computed))
        except Exception:  # noqa: BLE001 - likewise; who was told of a token must not be told of it again
            _log.exception("what a step of %d rows computed was not understood", len(planned))
            self._scheduler.steps.failed += 1
            return [*outcomes, *self._fail(planned)]
        seconds = time.monotonic() - since
        self._scheduler.pace.took(planned, seconds)
        self._scheduler.steps.seconds.add(seconds)
        self._scheduler.steps.rows.add(len(planned))
        return outcomes

    def _apart(self, planned: Sequence[Planned]) -> Sequence[Outcome]:
        """Each half of a step that failed, by itself: whatever is wrong with one request, the others go on.

        A step may be done again: its keys and values come to lie where they lay, and a draw depends on its row alone.
        """
        if len(planned) == 1:
            return self._fail(planned)
        half = len(planned) // 2
        return [*self._step(planned[:half]), *self._step(planned[half:])]

    def _fail(self, planned: Sequence[Planned]) -> Sequence[Outcome]:
        return self._scheduler.fail(planned, Internal("the engine failed in a step"))


def _hand_over(events: asyncio.AbstractEventLoop, outcomes: Sequence[Outcome]) -> None:
    if outcomes:
        events.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: Sequence[Outcome]) -> None:
    for job, event in outcomes:
        job.sink(event)
