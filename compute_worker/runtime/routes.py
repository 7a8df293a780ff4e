"""Routes: names that callers use instead of adapters.

Owns the immutable value behind each name and its swap under compare-and-swap, whether somebody asked
for it or a name that the route was written with has moved. A route's adapters are resident before it
points to them and stay so until it points elsewhere; after a restart they come back in the
background, and requests that are quicker load them. Does not know the wire or the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from compute_worker.runtime.api import Resolved, RouteState, Weighted
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.names import Withdrawn
from compute_worker.runtime.pool import Pool
from compute_worker.runtime.rights import Homes
from compute_worker.runtime.routebook import RouteBook
from compute_worker.runtime.selection import Resolver, distinct
from compute_worker.runtime.version import Choice, Version
from lorry.errors import LorryError, RevisionConflict, RouteNotFound
from lorry.format.reference import AdapterName, Reference, check_name, parse_reference

_log = logging.getLogger(__name__)

DEFAULT = "default"
# How soon a restored route whose adapters did not come is tried again: sooner than an operator looks.
_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Route:
    """What callers see, and the choices behind it: None after a restart, until they are resident again.

    held: versions that the pool keeps for it.
    """

    state: RouteState
    choices: tuple[Choice, ...] | None
    held: tuple[Version, ...] = ()


class Routes:
    """The routes of a worker. `default` exists from the start: revision 1, the base model alone.

    `switched` is called with the name of each route that was given a selection, or got its own back.
    """

    def __init__(
        self, resolver: Resolver, cache: AdapterCache, pool: Pool, withdrawn: Withdrawn, book: RouteBook
    ) -> None:
        self.switched: Callable[[str], None] = lambda _: None
        self._resolver = resolver
        self._cache = cache
        self._pool = pool
        self._withdrawn = withdrawn
        self._book = book
        self._routes = {DEFAULT: Route(_state(DEFAULT, 1, ()), ())}
        self._restoring: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Have the routes of an earlier life again; their adapters are loaded in the background."""
        for state in self._book.read():
            self._routes[state.name] = Route(state, None if state.adapters else ())
            if state.adapters:
                task = asyncio.create_task(self._restore(state.name))
                self._restoring.add(task)
                task.add_done_callback(self._restoring.discard)

    async def close(self) -> None:
        """Restore no more."""
        tasks = list(self._restoring)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def get(self, name: str) -> Route:
        """The route as it is now. Raises RouteNotFound."""
        try:
            return self._routes[name]
        except KeyError:
            raise RouteNotFound(f"this worker has no route {name[:80]!r}") from None

    def states(self) -> list[RouteState]:
        """All routes, by name."""
        return [self._routes[name].state for name in sorted(self._routes)]

    def homes(self, name: str) -> Homes:
        """The namespaces that decide who may know of a route, and use it; none where there is no such route."""
        adapters = self._routes[name].state.adapters if name in self._routes else ()
        return tuple(group for adapter in adapters for group in self._resolver.homes(adapter.adapter))

    async def choices(self, route: Route) -> tuple[Choice, ...]:
        """What a request by this route gets.

        Raises VersionYanked and VersionNotFound where a version of it was withdrawn; after a restart
        what resolving raises.
        """
        choices = await self._recall(route.state) if route.choices is None else route.choices
        for choice in choices:
            self._withdrawn.check(choice)
        return choices

    async def switch(self, name: str, selection: tuple[Weighted, ...], expected: int | None) -> RouteState:
        """Make the selection resident, then point the route to it in one stroke; made where there is none.

        expected: the revision that the route must have, 0: it must not exist, None: no condition.
        Raises InvalidName, RevisionConflict, StorageUnavailable, what resolving and loading raise.
        """
        check_name(name, "route")
        self._check_revision(name, expected)
        choices = await self._resolver.choose(selection, asked_anew=True)
        lease = await self._cache.acquire(choices, None)
        try:
            self._check_revision(name, expected)
            self._swap(_state(name, self._revision(name) + 1, choices), choices)
        finally:
            lease.release()
        self.switched(name)
        return self._routes[name].state

    def followed(self, name: str | None = None) -> dict[Reference, str]:
        """Names and aliases that a route was written with, all routes where none is named, with their digests."""
        states = self.states() if name is None else [self._routes[name].state]
        written = ((parse_reference(a.adapter), a.digest) for state in states for a in state.adapters)
        return {ref: digest for ref, digest in written if ref.digest is None and ref.number is None}

    async def follow(self, reference: Reference, version: Version) -> bool:
        """A name means this version now: point the routes that were written with it there, once it is loaded.

        A route that cannot be served so stays as it is; False where that may be different soon.
        """
        return all([await self._advance(name, reference, version) for name in list(self._routes)])

    def release(self, adapter: AdapterName, digest: str) -> None:
        """Let the pool drop what the routes hold of a version that was deleted."""
        exact = Reference(adapter, digest=digest)
        for name, route in list(self._routes.items()):
            gone = [choice.version for choice in route.choices or () if choice.exact == exact]
            going = tuple(version for version in route.held if version in gone)
            if going:
                self._routes[name] = replace(route, held=tuple(v for v in route.held if v not in going))
                self._pool.let_go(going)

    async def _advance(self, name: str, reference: Reference, version: Version) -> bool:
        """Point one route to what a name means now; False where it is worth another try."""
        while _is_behind((before := self._routes[name]).state, reference, version):
            try:
                choices = await self._moved(before, reference, version)
                lease = await self._cache.acquire(choices, None, patient=True)
                try:
                    if self._routes[name] is before:  # else it was switched meanwhile: look again
                        self._swap(_state(name, before.state.revision + 1, choices), choices)
                        _log.info("route %s followed %s to %s", name, reference, version.digest)
                finally:
                    lease.release()
            except LorryError as error:
                _log.warning("route %s stays, %s means %s now: %s", name, reference, version.digest, error)
                return not error.retryable
        return True

    async def _moved(self, route: Route, reference: Reference, version: Version) -> tuple[Choice, ...]:
        """The choices of a route with a name's new meaning. Raises InvalidSelection, and as resolving does."""
        moved = [parse_reference(adapter.adapter) == reference for adapter in route.state.adapters]
        kept = tuple(adapter for adapter, moves in zip(route.state.adapters, moved, strict=True) if not moves)
        others = {choice.adapter: choice for choice in await self._others(route, kept)}
        return distinct(
            [
                Choice(adapter.adapter, version, adapter.weight) if moves else others[adapter.adapter]
                for adapter, moves in zip(route.state.adapters, moved, strict=True)
            ]
        )

    async def _others(self, route: Route, adapters: tuple[Resolved, ...]) -> Iterable[Choice]:
        wanted = {adapter.adapter for adapter in adapters}
        if route.choices is not None:
            return [choice for choice in route.choices if choice.adapter in wanted]
        return await self._recall(replace(route.state, adapters=adapters))

    async def _restore(self, name: str) -> None:
        """Make a route's adapters resident again, by their digests; names that moved are followed then."""
        before = self._routes[name]
        while self._routes[name] is before:
            try:
                choices = await self._recall(before.state)
                lease = await self._cache.acquire(choices, None, patient=True)
            except LorryError as error:
                _log.warning("route %s is not resident again: %s", name, error)
                if not error.retryable:
                    break
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            try:
                if self._routes[name] is before:
                    self._swap(before.state, choices)
            finally:
                lease.release()
        self.switched(name)

    async def _recall(self, state: RouteState) -> tuple[Choice, ...]:
        exact = [
            str(replace(parse_reference(a.adapter), number=None, alias=None, digest=a.digest)) for a in state.adapters
        ]
        versions = await asyncio.gather(*(self._resolver.version(reference) for reference in exact))
        return tuple(Choice(a.adapter, version, a.weight) for a, version in zip(state.adapters, versions, strict=True))

    def _swap(self, state: RouteState, choices: tuple[Choice, ...]) -> None:
        """Point a route to choices that are in the pool. On disk first: a switch that would be lost is none."""
        self._book.write([*(route.state for name, route in self._routes.items() if name != state.name), state])
        versions = tuple(choice.version for choice in choices)
        before = self._routes.get(state.name)
        self._pool.keep(versions)
        self._routes[state.name] = Route(state, choices, versions)
        if before is not None:
            self._pool.let_go(before.held)

    def _revision(self, name: str) -> int:
        return self._routes[name].state.revision if name in self._routes else 0

    def _check_revision(self, name: str, expected: int | None) -> None:
        stored = self._revision(name)
        if expected not in (None, stored):
            raise RevisionConflict(f"route {name}: expected revision {expected}, it has {stored}", revision=str(stored))


def _state(name: str, revision: int, choices: tuple[Choice, ...]) -> RouteState:
    return RouteState(name, revision, tuple(choice.resolved for choice in choices), datetime.now(UTC))


def _is_behind(state: RouteState, reference: Reference, version: Version) -> bool:
    return any(a.digest != version.digest and parse_reference(a.adapter) == reference for a in state.adapters)
