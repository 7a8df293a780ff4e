"""Is the registry well: does its database answer, can its blob store be read and written?

Owns how often that is asked, how long an answer may take, and the log of every change. A check that
hangs counts as a failure and is not asked twice. Does not know who is told, nor what is checked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from adapter_registry.service.pool import Pool
from lorry.errors import LorryError

# Longest time for an answer: a database or a store that needs longer is of no use to callers.
ANSWER_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Hearer(Protocol):
    """Who is told of every change."""

    async def __call__(self, *, well: bool) -> None:
        """The registry is well, or not."""


class Check:
    """One thing that must answer. `ask` raises LorryError where it is not well; it runs in the pool."""

    def __init__(self, name: str, ask: Callable[[], None], pool: Pool, patience: float = ANSWER_SECONDS) -> None:
        self.name = name
        self._ask = ask
        self._pool = pool
        self._patience = patience
        self._asking: asyncio.Task[None] | None = None

    async def complaint(self) -> str:
        """What is wrong with it; empty where it is well."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._pool.run(self._ask))
            self._asking.add_done_callback(_seen)
        done, _ = await asyncio.wait([self._asking], timeout=self._patience)
        if not done:
            return f"no answer within {self._patience:g} s"
        asked, self._asking = self._asking, None
        try:
            asked.result()
        except LorryError as error:
            return error.message
        return ""


class StoreQuestion:
    """Asks a store: cheaply most of the time; by writing every `rarely`th time, and while it is not well."""

    def __init__(self, look: Callable[[], object], write: Callable[[], object], rarely: int = 6) -> None:
        self._look = look
        self._write = write
        self._rarely = rarely
        self._looks = 0

    def __call__(self) -> None:
        """Raises what the store raises."""
        looks, self._looks = self._looks, self._rarely  # where it raises, the next question is to write
        if looks < self._rarely:
            self._look()
            self._looks = looks + 1
        else:
            self._write()
            self._looks = 0


async def watch_health(checks: Sequence[Check], seconds: float, tell: Hearer) -> None:
    """Check every so many seconds, until cancelled. `tell` hears of each change; it was told of health before."""
    well = True
    while True:
        await asyncio.sleep(seconds)
        heard = await asyncio.gather(*(check.complaint() for check in checks))
        ill = [f"{check.name}: {text}" for check, text in zip(checks, heard, strict=True) if text]
        if well == bool(ill):
            well = not ill
            _log.log(logging.INFO if well else logging.ERROR, "%s", "well again" if well else "; ".join(ill))
            await tell(well=well)


def _seen(asked: asyncio.Task[None]) -> None:
    """What comes of a question that nobody waits for any more is no surprise."""
    if not asked.cancelled():
        asked.exception()
