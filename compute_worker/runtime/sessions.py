"""Sessions: conversations that keep their adapters, by digest, wherever names and routes point meanwhile.

Owns what each session keeps, for how long, and how many a caller may have; a session is its caller's
alone. What sessions keep is told to the registry as used, but holds no rows and no memory: what was
evicted is loaded again, by its digest. Does not know how a selection comes about.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from compute_worker.runtime.api import Weighted
from compute_worker.runtime.version import Choice
from lorry.errors import QuotaExceeded

# What a request wrote: adapters, or the name of a route.
Wanted: TypeAlias = "tuple[Weighted, ...] | str"


@dataclass(frozen=True, slots=True)
class Served:
    """Choices, and where they come from. route, branch: empty where the request named adapters."""

    wanted: Wanted
    choices: tuple[Choice, ...]
    route: str = ""
    revision: int = 0
    branch: str = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    """until: on the clock of the sessions; moved with every use."""

    served: Served
    until: float


class Sessions:
    """Belongs to the event loop. limit: sessions of one caller. seconds: that an unused one is kept."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._callers: dict[str, OrderedDict[str, _Kept]] = {}  # least recently used first
        self._used: Counter[str] = Counter()

    def get(self, caller: str, session: str) -> Served | None:
        """What a session keeps; None where there is none."""
        self._expire(caller)
        kept = self._callers.get(caller, OrderedDict()).get(session)
        return None if kept is None else kept.served

    def keep(self, caller: str, session: str, served: Served) -> None:
        """Let a session have this from now on. Raises QuotaExceeded where the caller has too many."""
        self._expire(caller)
        sessions = self._callers.setdefault(caller, OrderedDict())
        if session not in sessions and len(sessions) >= self._limit:
            raise QuotaExceeded(f"the caller has {len(sessions)} sessions, which is as many as may be")
        self._end(caller, session)
        self._callers.setdefault(caller, sessions)[session] = _Kept(served, self._clock() + self._seconds)
        self._used.update(_exact(served.choices))

    def used(self) -> list[str]:
        """Exact references of all versions that sessions keep."""
        for caller in list(self._callers):
            self._expire(caller)
        return list(self._used)

    def _end(self, caller: str, session: str) -> None:
        sessions = self._callers.get(caller, OrderedDict())
        kept = sessions.pop(session, None)
        if kept is None:
            return
        if not sessions:
            del self._callers[caller]
        for reference in _exact(kept.served.choices):
            self._used[reference] -= 1
            if not self._used[reference]:
                del self._used[reference]

    def _expire(self, caller: str) -> None:
        sessions, now = self._callers.get(caller, OrderedDict()), self._clock()
        while sessions and (oldest := next(iter(sessions))) and sessions[oldest].until <= now:
            self._end(caller, oldest)


def _exact(choices: Iterable[Choice]) -> list[str]:
    return [f"{e.adapter.namespace}/{e.adapter.name}@{e.digest}" for e in (choice.exact for choice in choices) if e]
