"""Waiting: for a change, for a limit in time, for the last of the running calls, for a turn, for another's result.

Owns a few small primitives of the event loop; all of them belong to the one loop that the runtime
runs on. Does not know what is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from lorry.errors import Draining, LorryError

T = TypeVar("T")


class Signal:
    """Something changed: everybody who waits wakes up once and looks again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake everybody who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until the next `notify`."""
        await self._event.wait()


@asynccontextmanager
async def until(limit: float | None, error: Callable[[], LorryError]) -> AsyncIterator[None]:
    """Raise `error()` where the block still runs at `limit` (time.monotonic()'s clock, None: never)."""
    scope = asyncio.timeout(None if limit is None else limit - time.monotonic())
    try:
        async with scope:
            yield
    except TimeoutError:
        if scope.expired():
            raise error() from None
        raise


class Gate:
    """Counts the calls inside; once shut, it lets nobody in and tells when the last has left."""

    def __init__(self) -> None:
        self._inside: list[asyncio.Task[object] | None] = []
        self._shut = False
        self._cut = False
        self._left = Signal()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be counted. Raises Draining where the gate is shut, or the call was cut."""
        if self._shut:
            raise Draining("the worker is about to stop and takes nothing new")
        task = asyncio.current_task()
        self._inside.append(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._cut or task is None:
                raise
            task.uncancel()
            raise Draining("the worker stops before this could be completed") from None
        finally:
            self._inside.remove(task)
            self._left.notify()

    def shut(self) -> None:
        """Let nobody in any more."""
        self._shut = True

    def cut(self) -> None:
        """Shut, and cancel the calls that are still inside: they end with Draining."""
        self._shut = self._cut = True
        for task in self._inside:
            if task is not None:
                task.cancel()

    async def drain(self) -> None:
        """Shut, and wait for the last call inside."""
        self.shut()
        while self._inside:
            await self._left.wait()


class Turns:
    """One at a time. Who asks often waits behind himself: of each tenant one at most is in everybody's way."""

    def __init__(self) -> None:
        self._everybodys = asyncio.Lock()
        self._own: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """Around what nobody else does meanwhile."""
        own = self._own.get(tenant)
        if own is None:
            own = self._own[tenant] = asyncio.Lock()
        async with own, self._everybodys:
            yield


class SingleFlight(Generic[T]):
    """Work by key, done once however many ask for it at the same time.

    The work is nobody's: it goes on where the one who asked first goes away.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[T]] = {}

    async def run(self, key: str, work: Callable[[], Coroutine[None, None, T]]) -> T:
        """Result of the work under this key, begun now or earlier. Raises what the work raises."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    async def close(self) -> None:
        """Stop what is in the air and wait until it has let go."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: str, task: asyncio.Task[T]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            task.exception()  # seen, though everybody who asked may have gone


class Departures(SingleFlight[T]):
    """A SingleFlight whose work, until it has begun, is theirs who ask: it is given up with the last of them."""

    def __init__(self) -> None:
        super().__init__()
        self._asking: Counter[str] = Counter()
        self._begun: set[asyncio.Task[object] | None] = set()

    async def run(self, key: str, work: Callable[[], Coroutine[None, None, T]]) -> T:
        """See SingleFlight."""
        self._asking[key] += 1
        try:
            return await super().run(key, work)
        finally:
            self._asking -= Counter((key,))  # drops those at 0
            task = self._tasks.get(key)
            if key not in self._asking and task is not None and not task.done() and task not in self._begun:
                self._tasks.pop(key).cancel()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Around the part of a work that goes on whoever leaves."""
        task = asyncio.current_task()
        self._begun.add(task)
        try:
            yield
        finally:
            self._begun.discard(task)
