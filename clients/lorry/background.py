"""One event loop on a thread of its own, for callers without one: begin work there and wait for its result.

Owns the thread, its beginning, and what happens where nobody may wait for it. Does not know any client.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent import futures
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from lorry.errors import FailedPrecondition

T = TypeVar("T")


class _Background:
    """The loop and the thread that runs it, in this process alone: a fork has neither the thread nor gRPC's own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="lorry-sync", daemon=True)
        self.process = os.getpid()
        self.thread.start()


_starting = threading.Lock()
_started: list[_Background] = []


def _background() -> _Background:
    if not _started:
        with _starting:
            if not _started:  # another thread may have been first
                _started.append(_Background())
    return _started[0]


def wait(work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, done on the background loop; where the wait is interrupted, cancelled and ended there.

    Raises FailedPrecondition in a process that was forked off one whose loop had begun, and on the loop itself: in
    what a client calls while it works, such as `progress`.
    """
    background, done = _background(), Future[T]()
    if background.process != os.getpid():
        work.close()
        raise FailedPrecondition(
            "lorry.sync was in use when this process was forked off, and does not work in it: "
            "use it only after the fork, or start processes by spawn"
        )
    if threading.current_thread() is background.thread:
        work.close()
        raise FailedPrecondition(
            "lorry.sync was called out of a callback on its own loop, which would wait for itself: "
            "let the callback note what is to be done, and do it behind the call"
        )
    loop = background.loop
    tasks: list[asyncio.Task[T]] = []

    def begin() -> None:
        tasks.append(loop.create_task(work))
        tasks[0].add_done_callback(lambda task: _settle(done, task))

    loop.call_soon_threadsafe(begin)
    try:
        return done.result()
    except BaseException:
        if not done.done():
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108 - there is a task once `begin` ran
            futures.wait({done})  # a stream that still runs could not be closed
        raise


def _settle(done: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        done.set_exception(CancelledError())
    elif error := task.exception():
        done.set_exception(error)
    else:
        done.set_result(task.result())


_END: Any = object()


async def made(make: Callable[[], T]) -> T:
    """What must be made on the loop."""
    return make()


async def _next(stream: AsyncIterator[T]) -> T:
    return await anext(stream, _END)


async def _closed(stream: AsyncIterator[T]) -> None:
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()


def drain(stream: AsyncIterator[T]) -> Iterator[T]:
    """The stream's items on the caller's thread; the stream is closed when the loop is left."""
    try:
        while (item := wait(_next(stream))) is not _END:
            yield item
    finally:
        _leave(stream)


def _leave(stream: AsyncIterator[T]) -> None:
    """Close the stream, and wait for that where somebody can do it.

    A stream that is left lying is closed by whoever collects it: the loop's own thread, which must not wait for
    itself; a fork; or the end of the process, when the loop does not run any more.
    """
    background = _background()
    if sys.is_finalizing() or background.process != os.getpid():
        return
    if threading.current_thread() is background.thread:
        background.loop.call_soon_threadsafe(background.loop.create_task, _closed(stream))
    else:
        wait(_closed(stream))
