"""When a transfer that was cut is tried again.

Owns patience: how often, how long between, and that progress renews it. Does not know what is
transferred or how it resumes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from lorry.errors import DigestMismatch, Exhausted, LorryError, OffsetMismatch, UploadIncomplete

# In a row and without a byte moved. With the waits below: about 8 s, enough for a registry that is
# killed and started again (2 s here), and not so long that a person wonders.
MAX_FAILURES = 8
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0


class Patience:
    """Renewed by progress: only failures in a row with nothing moved in between count.

    `position` says how many bytes have moved so far. Damaged bytes are tried once more, then
    believed to be damaged at the source.
    """

    def __init__(self, position: Callable[[], int]) -> None:
        self._position = position
        self._moved = position()
        self._failures = 0
        self._mismatches = 0

    def retrying(self) -> AsyncRetrying:
        """Tenacity's loop with this patience; raises the last error as it is."""
        return AsyncRetrying(
            retry=retry_if_exception(self._worth), stop=self._exhausted, wait=self._pause, reraise=True
        )

    def _worth(self, error: BaseException) -> bool:
        if isinstance(error, DigestMismatch):
            self._mismatches += 1
            self._moved = 0  # what came is worth nothing
            return self._mismatches == 1
        # The last two: somebody else sends the same blob, or the store kept less than it said. Ask again.
        return isinstance(error, LorryError) and (
            error.retryable or isinstance(error, OffsetMismatch | UploadIncomplete)
        )

    def _exhausted(self, _state: RetryCallState) -> bool:
        moved = self._position()
        self._failures = 1 if moved > self._moved else self._failures + 1
        # The furthest: what falls back and comes as far again, for ever, does not move.
        self._moved = max(self._moved, moved)
        return self._failures >= MAX_FAILURES

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = min(_FIRST_WAIT_SECONDS * 2**self._failures, _LONGEST_WAIT_SECONDS)
        asked = error.retry_after if isinstance(error, Exhausted) else 0.0
        jitter = random.uniform(0.5, 1)  # noqa: S311 - spreads the callers of a server that is back; no secret
        return float(max(backoff, asked) * jitter)
