"""What the runtime counts of its own work, for whoever wants to see it.

Owns plain numbers, kept by the one thread that does the work: the event loop, but for `Steps`, which is
the engine's. They only grow. Does not know who reads them, nor under which names they are shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from compute_worker.runtime.api import Tier

# From a step of a tiny model to the download of a large adapter; each 2 to 3 times the one before.
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Requests in a step: the default batch is 64.
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
# What is counted by name where nothing else is said, and what is looked at to find that.
_NAMED = 20
_CANDIDATES = 1_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Spread:
    """How values were distributed. counts: of those up to each bound, and of those beyond the last."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Steps:
    """The engine's steps. prompt, drawn: tokens that were run of prompts, and drawn for answers.

    cached: tokens of prompts that were in the KV cache already. preempted: requests that lost their KV;
    recomputed: tokens that were run again for that. drafted, accepted: tokens of drafts, and those that were right.
    """

    seconds: Spread = field(default_factory=Spread)
    rows: Spread = field(default_factory=lambda: Spread(_ROWS))
    prompt: int = 0
    drawn: int = 0
    drafted: int = 0
    accepted: int = 0
    cached: int = 0
    recomputed: int = 0
    preempted: int = 0
    failed: int = 0


class Busiest(Generic[K, V]):
    """Figures by key: of the busiest `named` keys each, of the others together. `new` makes them, at nothing.

    No number ever shrinks, so that rates are right: a key that becomes busier than the least busy named
    one takes its place and begins at nothing; what came before stays with the others.
    """

    def __init__(self, new: Callable[[], V], named: int = _NAMED, candidates: int = _CANDIDATES) -> None:
        self.named: dict[K, V] = {}
        self.others = new()
        self._new = new
        self._most = named
        self._candidates = candidates
        self._heat: Counter[K] = Counter()

    def of(self, key: K) -> V:
        """Where one more request is to be counted."""
        if len(self._heat) >= self._candidates and key not in self._heat:
            # What was busy once cools down, and what came once is forgotten.
            self._heat = Counter({one: heat // 2 for one, heat in self._heat.items() if heat > 1})
        self._heat[key] += 1
        if key not in self.named and not self._let_in(key):
            return self.others
        return self.named.setdefault(key, self._new())

    def _let_in(self, key: K) -> bool:
        if len(self.named) < self._most:
            return True
        coldest = min(self.named, key=lambda one: self._heat[one])
        if self._heat[key] <= self._heat[coldest]:
            return False
        del self.named[coldest]
        return True


@dataclass(slots=True)
class Uses:
    """How often an adapter was asked for."""

    count: int = 0


@dataclass(slots=True)
class Tally:
    """found: where adapters were when they were asked for; GONE: nowhere near. loads: how long it took to
    bring one into a tier: the whole file from the registry to disk, from there to host memory, into the
    pool. evicted: what had to make room there.
    """

    found: Counter[Tier] = field(default_factory=Counter)
    evicted: Counter[Tier] = field(default_factory=Counter)
    loads: dict[Tier, Spread] = field(
        default_factory=lambda: {tier: Spread() for tier in (Tier.DISK, Tier.HOST, Tier.POOL)}
    )
