"""Blocking work off the event loop, a bounded number of jobs at a time.

Owns thread pools, one for each kind of work, so that none waits behind another kind. Does not know
what the jobs do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass, fields
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from lorry.overlap import ended


class Closeable(Protocol):
    """Something that must be let go of."""

    def close(self) -> None:
        """Let go."""


P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Closeable)


class Pool:
    """`threads` threads; more jobs wait for their turn."""

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The job's result; raises what it raises. The job sees the caller's context variables.

        When the caller is cancelled, a job that has not begun is dropped and a running one is
        waited for: what it uses may be closed right behind this call.
        """
        call = partial(copy_context().run, job, *args, **kwargs)
        return await _result(self._executor.submit(call))

    @asynccontextmanager
    async def opened(self, opener: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[C]:
        """What `opener` gives, closed in the end, also where the caller is cancelled while it opens."""
        opening = self._executor.submit(partial(copy_context().run, opener, *args, **kwargs))
        try:
            yield await _result(opening)
        finally:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                await ended(asyncio.wrap_future(self._executor.submit(opening.result().close)))

    def close(self) -> None:
        """Wait for the running jobs; take no more."""
        self._executor.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Pools:
    """The threads of a registry.

    queries: for what reads the catalogue. writes: for its short transactions that write, which wait for
    each other, and for as long as ten seconds where another process does not give up the turn to write.
    removals: for what writes a batch after the other for seconds. transfers: for the blob store.
    """

    queries: Pool
    writes: Pool
    removals: Pool
    transfers: Pool

    @classmethod
    def of(cls, *, queries: int, writes: int, transfers: int) -> Pools:
        """So many threads each; removals go one after the other."""
        return cls(Pool(queries, "catalog"), Pool(writes, "writes"), Pool(1, "removals"), Pool(transfers, "blobs"))

    def close(self) -> None:
        """Wait for the running jobs; take no more."""
        for field in fields(self):
            getattr(self, field.name).close()


async def _result(future: Future[T]) -> T:
    outcome = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        if not future.cancel():
            await ended(outcome)
        raise
