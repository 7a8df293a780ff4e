"""Routes: names that callers use instead of adapters.

Owns the immutable value behind each name and its swap under compare-and-swap. A route's adapters
are resident before it points to them and stay so until it points elsewhere: a request by route
never loads anything. Does not know the wire or the scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from compute_worker.runtime.api import RouteState, Weighted
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.pool import Pool
from compute_worker.runtime.selection import Resolver
from compute_worker.runtime.version import Choice
from lorry.errors import RevisionConflict, RouteNotFound
from lorry.format.reference import check_name

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Route:
    """What callers see, and the choices behind it."""

    state: RouteState
    choices: tuple[Choice, ...]


class Routes:
    """The routes of a worker. `default` exists from the start: revision 1, the base model alone."""

    def __init__(self, resolver: Resolver, cache: AdapterCache, pool: Pool) -> None:
        self._resolver = resolver
        self._cache = cache
        self._pool = pool
        self._routes = {DEFAULT: _route(DEFAULT, 1, ())}

    def get(self, name: str) -> Route:
        """The route as it is now. Raises RouteNotFound."""
        try:
            return self._routes[name]
        except KeyError:
            raise RouteNotFound(f"this worker has no route {name[:80]!r}") from None

    def states(self) -> list[RouteState]:
        """All routes, by name."""
        return [self._routes[name].state for name in sorted(self._routes)]

    async def switch(self, name: str, selection: tuple[Weighted, ...], expected: int | None) -> RouteState:
        """Make the selection resident, then point the route to it in one stroke; made where there is none.

        expected: the revision that the route must have, 0: it must not exist, None: no condition.
        Raises InvalidName, RevisionConflict, what resolving and loading raise.
        """
        check_name(name, "route")
        self._check_revision(name, expected)
        choices = await self._resolver.choose(selection)
        lease = await self._cache.acquire(choices, None)
        try:
            self._check_revision(name, expected)
            self._pool.keep([choice.version for choice in choices])
            before = self._routes.get(name)
            self._routes[name] = _route(name, self._revision(name) + 1, choices)
            if before is not None:
                self._pool.let_go([choice.version for choice in before.choices])
        finally:
            lease.release()
        return self._routes[name].state

    def _revision(self, name: str) -> int:
        return self._routes[name].state.revision if name in self._routes else 0

    def _check_revision(self, name: str, expected: int | None) -> None:
        stored = self._revision(name)
        if expected not in (None, stored):
            raise RevisionConflict(f"route {name}: expected revision {expected}, it has {stored}", revision=str(stored))


def _route(name: str, revision: int, choices: tuple[Choice, ...]) -> Route:
    resolved = tuple(choice.resolved for choice in choices)
    return Route(RouteState(name, revision, resolved, datetime.now(UTC)), choices)
