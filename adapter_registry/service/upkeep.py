"""What the registry does of its own accord beside answering calls.

Owns when garbage is collected and what is stored is counted, and the life of such work: it begins with
the server, ends before it drains, and a defect of it is told in the log. Does not know what the work does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from adapter_registry.domain.acting import REGISTRY, acting
from adapter_registry.service.garbage import GarbageCollector
from adapter_registry.service.pool import Pool
from lorry.errors import AlreadyRunning, Unavailable

_log = logging.getLogger(__name__)

# Reads an entry for each blob: some 50 ms for 100,000.
_MEASURE_SECONDS = 60.0


@dataclass(slots=True)
class Held:
    """Blobs that are stored, and their bytes; nothing before they were counted."""

    blobs: int = 0
    size: int = 0
    measured: bool = False


@asynccontextmanager
async def alongside(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do the work for the time of the block; then it is cancelled and waited for."""
    tasks = [asyncio.create_task(each) for each in work]
    for task in tasks:
        task.add_done_callback(_tell)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def collect_regularly(collector: GarbageCollector, seconds: float) -> None:
    """Collect about every so many seconds, until cancelled; never where it is 0.

    The pauses are uneven, so that replicas that started together do not meet each time.
    """
    with acting(replace(REGISTRY, action="CollectGarbage")):
        while seconds:
            await asyncio.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            await _collect(collector)


async def measure_regularly(held: Held, count: Callable[[], tuple[int, int]], queries: Pool) -> None:
    """Keep `held` fresh by what `count` tells, until cancelled."""
    while True:
        try:
            held.blobs, held.size = await queries.run(count)
            held.measured = True
        except Unavailable as error:
            _log.warning("what is stored was not counted: %s", error)
        await asyncio.sleep(_MEASURE_SECONDS)


async def _collect(collector: GarbageCollector) -> None:
    try:
        done = await collector.collect()
    except AlreadyRunning:
        _log.debug("another replica collects garbage")
    except Unavailable as error:
        _log.warning("no garbage was collected: %s", error)
    else:
        _log.info("collected garbage: %s", done)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the registry goes on without a part of its upkeep", exc_info=error)
