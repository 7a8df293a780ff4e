"""Which of the things that a tier keeps goes first where it is full.

Owns the worth of each, made of its uses, its size and what bringing it back costs. Does not know
tiers or adapters, nor who must stay whatever it is worth: the tiers ask about those who may go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# Priority, and where that is the same, when it was used last. The smallest goes first.
Worth = tuple[float, int]
# Of whoever was never used here.
_NOTHING: Worth = (float("-inf"), 0)
# A cache that is cut in small pieces has room for none: what is smaller counts as this, so that thousands
# of configurations of 1 KB do not outlive the weights that they belong to.
_CRUMB_BYTES = 1 << 16
# More uses do not count: what was popular makes room for what is now. On traces that move 8 loses a hundredth to
# no bound at all on those that stay, and wins up to a tenth (tests/runtime/test_eviction.py).
_MOST_USES = 8


class Eviction(Protocol):
    """The order in which the keys of one tier leave it."""

    def used(self, key: str, size: int, cost: float) -> None:
        """A key was used, or came in. size: the bytes that it takes. cost: seconds to bring it back."""

    def worth(self, key: str) -> Worth:
        """The smaller, the sooner it goes; below everybody else's where the key was never used."""

    def gone(self, key: str, *, evicted: bool) -> None:
        """A key left. evicted: for want of room, and not because it was let go of. Unknown ones do nothing."""


class LeastRecentlyUsed:
    """The one whose last use is the longest ago. The reference: nothing counts but the order of uses."""

    def __init__(self) -> None:
        self._clock = 0
        self._used: dict[str, int] = {}

    def used(self, key: str, size: int, cost: float) -> None:  # noqa: ARG002 - they do not count here
        """See Eviction."""
        self._clock += 1
        self._used[key] = self._clock

    def worth(self, key: str) -> Worth:
        """See Eviction."""
        return (0.0, self._used[key]) if key in self._used else _NOTHING

    def gone(self, key: str, *, evicted: bool) -> None:  # noqa: ARG002 - nothing ages here
        """See Eviction."""
        self._used.pop(key, None)


@dataclass(slots=True)
class _Record:
    uses: int
    worth: Worth


class CheapestToMiss:
    """Greedy-Dual-Size-Frequency (Cherkasova, HPL-98-69), uses bounded: worth = age + uses * cost / size.

    What is used often, costs much to bring back, or takes little room stays. The age grows to the worth
    of what was evicted last, so that whatever is not used any more goes in the end, however popular it was.
    """

    def __init__(self) -> None:
        self._clock = 0
        self._age = 0.0
        self._records: dict[str, _Record] = {}

    def used(self, key: str, size: int, cost: float) -> None:
        """See Eviction."""
        self._clock += 1
        uses = min(self._records[key].uses + 1, _MOST_USES) if key in self._records else 1
        priority = self._age + uses * cost / max(size, _CRUMB_BYTES)
        self._records[key] = _Record(uses, (priority, self._clock))

    def worth(self, key: str) -> Worth:
        """See Eviction."""
        return self._records[key].worth if key in self._records else _NOTHING

    def gone(self, key: str, *, evicted: bool) -> None:
        """See Eviction."""
        record = self._records.pop(key, None)
        if record is not None and evicted:
            self._age = max(self._age, record.worth[0])


# By the value of the setting.
EVICTIONS: dict[str, Callable[[], Eviction]] = {"cost": CheapestToMiss, "lru": LeastRecentlyUsed}
