"""What is done once nothing was asked for, for a while: requests that waited for the last one come first.

Owns the wait. Belongs to the event loop; the work runs in an executor's thread. Does not know what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

# Longer than a cold adapter takes from its first byte to its request's first token.
CALM_SECONDS = 0.25


class Calm:
    """Work that is put off, again and again, until it is calm."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._timer: asyncio.TimerHandle | None = None

    def then(self, work: Callable[[], None]) -> None:
        """Do this once it is calm, in the place of what was put off before."""
        self.close()
        self._timer = asyncio.get_running_loop().call_later(CALM_SECONDS, self._executor.submit, work)

    def close(self) -> None:
        """Put it off for good."""
        if self._timer is not None:
            self._timer.cancel()
