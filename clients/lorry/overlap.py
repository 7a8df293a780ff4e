"""Two things at once with a stream: an item is worked on while its neighbour is on the wire.

Owns the overlap, of one item and not more, so that a stream holds two chunks whatever passes through
it; and that work which has begun is waited for before what it uses is closed, or done whole. Does not
know what the items are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def ahead(fetch: Callable[[], Coroutine[Any, Any, T | None]]) -> AsyncGenerator[T, None]:
    """What is fetched, up to the first None; while one is with the caller, the next is fetched."""
    fetching = asyncio.create_task(fetch())
    try:
        while (item := await asyncio.shield(fetching)) is not None:
            fetching = asyncio.create_task(fetch())
            yield item
    finally:
        await ended(fetching)


async def behind(work: Callable[[T], Coroutine[Any, Any, None]], items: AsyncIterator[T]) -> None:
    """Do the work on each item, in order; while it is done on one, the next is awaited.

    Raises what the work raises; what `items` raises, once the work on those before is done.
    """
    working: asyncio.Task[None] | None = None
    try:
        async for item in items:
            if working is not None:
                await asyncio.shield(working)
            working = asyncio.create_task(work(item))
        if working is not None:
            await asyncio.shield(working)
    except Exception:
        if working is not None:
            await ended(working)
            working.result()  # where it failed, that came first
        raise
    finally:
        if working is not None:
            await ended(working)


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; it comes to its end also where the caller is cancelled, who is so behind that."""
    working = asyncio.create_task(work)
    try:
        return await asyncio.shield(working)
    finally:
        await ended(working)


async def ended(outcome: asyncio.Future[T]) -> None:
    """Wait for its end, whatever that is, also where the caller is cancelled meanwhile: then it is so behind that."""
    cancelled: asyncio.CancelledError | None = None
    while not outcome.done():
        try:
            await asyncio.wait([outcome])
        except asyncio.CancelledError as error:
            cancelled = error
    if not outcome.cancelled():
        outcome.exception()  # seen: nobody else will ask for it
    if cancelled is not None:
        raise cancelled
