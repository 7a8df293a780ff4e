"""How many prompt tokens a step takes beside running answers, whose next tokens wait for its end.

Owns what a prompt token was seen to cost on this machine under this base. Does not know why it costs that, nor
whose tokens they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from compute_worker.runtime.job import Planned

# An answer's next token may come so much later for the sake of prompts: readers notice pauses of a quarter of a second.
STALL_SECONDS = 0.2
# Chunks of fewer tokens read the weights too often for what they compute.
LEAST_TOKENS = 64
# The share of what is known by a new observation: a few steps forget a machine that was busy with something else.
_NEW = 0.5


class Pace:
    """most: prompt tokens of any step."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds: float | None = None  # of a prompt token

    def tokens(self, *, beside: bool) -> int:
        """Prompt tokens of the next step. beside: whether answers run in it."""
        if not beside or self._seconds is None:
            return self._most
        return min(self._most, max(LEAST_TOKENS, int(STALL_SECONDS / self._seconds)))

    def took(self, planned: Sequence[Planned], seconds: float) -> None:
        """A step ran. One that was mostly prompts tells what their tokens cost."""
        prompt = sum(len(row.tokens) for _, row in planned if len(row.tokens) > 1)
        if prompt >= max(LEAST_TOKENS, len(planned)):
            seen = seconds / prompt
            self._seconds = seen if self._seconds is None else (1 - _NEW) * self._seconds + _NEW * seen
