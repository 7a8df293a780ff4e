"""What the runtime counts of its own work, for whoever wants to see it.

Owns plain numbers, kept by the one thread that does the work: the event loop, but for `Steps`, which is
the engine's. They only grow. Does not know who reads them, nor under which names they are shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from compute_worker.runtime.api import Tier

# From a step of a tiny model to the download of a large adapter; each 2 to 3 times the one before.
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Requests in a step: the default batch is 64.
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
# Adapters that are counted by name, and those that are looked at to find them.
_NAMED = 20
_CANDIDATES = 1_000


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
    """The engine's steps. prompt, drawn: tokens that were run of prompts, and drawn for answers."""

    seconds: Spread = field(default_factory=Spread)
    rows: Spread = field(default_factory=lambda: Spread(_ROWS))
    prompt: int = 0
    drawn: int = 0
    failed: int = 0


class Busiest:
    """Requests by adapter: the busiest `named` of them each, the others together.

    No number ever shrinks, so that rates are right: an adapter that becomes busier than the least busy
    named one takes its place and begins at nothing; what came before stays with the others.
    """

    def __init__(self, named: int = _NAMED, candidates: int = _CANDIDATES) -> None:
        self.counts: dict[str, int] = {}
        self.others = 0
        self._named = named
        self._candidates = candidates
        self._heat: Counter[str] = Counter()

    def add(self, digest: str) -> None:
        """One more request."""
        if len(self._heat) >= self._candidates and digest not in self._heat:
            # What was busy once cools down, and what came once is forgotten.
            self._heat = Counter({key: heat // 2 for key, heat in self._heat.items() if heat > 1})
        self._heat[digest] += 1
        if digest not in self.counts and not self._let_in(digest):
            self.others += 1
            return
        self.counts[digest] = self.counts.get(digest, 0) + 1

    def _let_in(self, digest: str) -> bool:
        if len(self.counts) < self._named:
            return True
        coldest = min(self.counts, key=lambda one: self._heat[one])
        if self._heat[digest] <= self._heat[coldest]:
            return False
        del self.counts[coldest]
        return True


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
