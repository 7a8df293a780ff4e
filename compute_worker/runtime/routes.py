"""Routes: names that callers use instead of adapters.

Owns the immutable value behind each name and its swap under compare-and-swap, whether somebody asked
for it or a name that the route was written with has moved. A route's adapters are resident before it
points to them and stay so until it points elsewhere; after a restart they come back in the
background, and requests that are quicker load them. Does not know the wire or the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from compute_worker.runtime.api import Branch, Resolved, RouteChange, RouteState, RouteTarget
from compute_worker.runtime.branches import checked
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.names import Withdrawn
from compute_worker.runtime.pool import Pool
from compute_worker.runtime.rights import Permission, rights
from compute_worker.runtime.route import (
    DEFAULT,
    Choices,
    Route,
    after,
    base_alone,
    exact,
    follows,
    frozen,
    moved,
    versions_of,
)
from compute_worker.runtime.routebook import RouteBook
from compute_worker.runtime.selection import Resolver, distinct
from compute_worker.runtime.version import Choice, Version
from lorry.errors import InvalidInput, LorryError, RevisionConflict, RouteNotFound
from lorry.format.reference import AdapterName, Reference, check_name, parse_reference

_log = logging.getLogger(__name__)

# How soon a restored route whose adapters did not come is tried again: sooner than an operator looks.
_RETRY_SECONDS = 2.0
_NOTHING: Mapping[str, Version] = MappingProxyType({})


class Routes:
    """The routes of a worker. `default` exists from the start: revision 1, the base model alone.

    `switched` is called with the name of each route that was given branches, or got its own back.
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
        self._routes = {DEFAULT: base_alone(DEFAULT)}
        self._restoring: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Have the routes of an earlier life again; their adapters are loaded in the background."""
        for history in self._book.read():
            state = history[-1]
            self._routes[state.name] = Route(history, None if state.adapters else tuple(() for _ in state.branches))
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

    async def choices(self, route: Route, place: int) -> tuple[Choice, ...]:
        """What a request by the branch in this place gets.

        Raises VersionYanked and VersionNotFound where a version of it was withdrawn, PermissionDenied; after a
        restart what resolving raises.
        """
        if route.choices is None:
            (choices,) = await self._recall([route.state.branches[place]])
        else:
            choices = route.choices[place]
        for choice in choices:
            # Of the route that it is now: it may have been another when the call was judged.
            rights().require(Permission.READ, choice.homes)
            await self._resolver.confirm(choice)
        return choices

    async def switch(self, name: str, targets: Sequence[RouteTarget], expected: int | None) -> RouteState:
        """Make all branches resident, then point the route to them in one stroke; made where there is none.

        expected: the revision that the route must have, 0: it must not exist, None: no condition.
        Raises InvalidName, RevisionConflict, StorageUnavailable, QuotaExceeded, what resolving and loading raise,
        PermissionDenied where meanwhile the route became what the caller may not change.
        """
        check_name(name, "route")
        named = checked(targets)
        self._check_revision(name, expected)
        choices = [await self._resolver.choose(target.selection, asked_anew=True) for target in named]
        return await self._put(name, named, tuple(choices), expected, RouteChange.SWITCH)

    async def rollback(self, name: str, revision: int, expected: int | None) -> RouteState:
        """Give a route the branches of an earlier revision, 0: of the one before. They follow no name.

        Raises RouteNotFound, NoEarlierVersion, and as `switch`.
        """
        branches = [frozen(branch) for branch in self.get(name).past(revision).branches]
        self._check_revision(name, expected)
        return await self._put(name, branches, await self._recall(branches), expected, RouteChange.ROLLBACK)

    def remove(self, name: str, expected: int | None) -> None:
        """Have a route no more. Raises RouteNotFound, RevisionConflict, StorageUnavailable, InvalidInput."""
        if name == DEFAULT:
            raise InvalidInput(f"expected another route than {DEFAULT}, which always exists")
        route = self.get(name)
        self._check_revision(name, expected)
        self._check_owner(route)
        self._book.remove(name)
        del self._routes[name]
        self._pool.let_go(route.held)

    def followed(self, name: str | None = None) -> dict[Reference, str]:
        """Names and aliases that a route was written with, all routes where none is named, with their digests."""
        states = self.states() if name is None else [self._routes[name].state]
        return {parse_reference(a.adapter): a.digest for state in states for a in state.adapters if follows(a)}

    async def follow(self, reference: Reference, version: Version) -> bool:
        """A name means this version now: point the routes that were written with it there, once it is loaded.

        A route that cannot be served so stays as it is; False where that may be different soon.
        """
        return all([await self._advance(name, reference, version) for name in list(self._routes)])

    def release(self, adapter: AdapterName, digest: str) -> None:
        """Let the pool drop what the routes hold of a version that was deleted."""
        gone = Reference(adapter, digest=digest)
        for name, route in list(self._routes.items()):
            named = [choice.version for chosen in route.choices or () for choice in chosen if choice.exact == gone]
            going = tuple(version for version in route.held if version in named)
            if going:
                self._routes[name] = replace(route, held=tuple(v for v in route.held if v not in going))
                self._pool.let_go(going)

    async def _put(
        self,
        name: str,
        shape: Sequence[RouteTarget | Branch],
        choices: Choices,
        expected: int | None,
        change: RouteChange,
    ) -> RouteState:
        lease = await self._cache.acquire_each(choices, None, patient=True)
        try:
            self._check_revision(name, expected)
            before = self._routes.get(name)
            self._check_owner(before)
            self._check_standing(choices)
            self._swap(self._bounded(after(before, name, shape, choices, change, rights()), before))
        finally:
            lease.release()
        self.switched(name)
        return self._routes[name].state

    async def _advance(self, name: str, reference: Reference, version: Version) -> bool:
        """Point one route to what a name means now; False where it is worth another try."""
        while (before := self._routes.get(name)) and _is_behind(before.state, reference, version):
            try:
                choices = await self._followed(before, reference, version)
                lease = await self._cache.acquire_each(choices, None, patient=True)
                try:
                    self._check_standing(choices)
                    if self._routes.get(name) is before:  # else it was switched meanwhile: look again
                        route = after(before, name, before.state.branches, choices, RouteChange.FOLLOW, None)
                        self._swap(self._bounded(route, before))
                        _log.info("route %s followed %s to %s", name, reference, version.digest)
                finally:
                    lease.release()
            except LorryError as error:
                _log.warning("route %s stays, %s means %s now: %s", name, reference, version.digest, error)
                return not error.retryable
        return True

    async def _followed(self, route: Route, reference: Reference, version: Version) -> Choices:
        """The choices of a route with a name's new meaning. Raises InvalidSelection, and as resolving does."""
        at_hand = {choice.version.digest: choice.version for chosen in route.choices or () for choice in chosen}
        branches = [moved(branch, reference, version.digest) for branch in route.state.branches]
        choices = await self._recall(branches, at_hand | {version.digest: version})
        return tuple(distinct(chosen) for chosen in choices)

    async def _restore(self, name: str) -> None:
        """Make a route's adapters resident again, by their digests; names that moved are followed then."""
        before = self._routes[name]
        while self._routes.get(name) is before:
            try:
                choices = await self._recall(before.state.branches)
                lease = await self._cache.acquire_each(choices, None, patient=True)
            except LorryError as error:
                _log.warning("route %s is not resident again: %s", name, error)
                if not error.retryable:
                    break
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            try:
                gone = any(c.exact is not None and self._withdrawn.deleted(c.exact) for each in choices for c in each)
                if self._routes.get(name) is before:
                    self._hold(replace(before, choices=choices, held=() if gone else versions_of(choices)))
            finally:
                lease.release()
        if name in self._routes:
            self.switched(name)

    async def _recall(self, branches: Sequence[Branch], at_hand: Mapping[str, Version] = _NOTHING) -> Choices:
        """What branches were resolved to, by digest. Raises what resolving raises."""

        async def choice(adapter: Resolved) -> Choice:
            version = at_hand.get(adapter.digest) or await self._resolver.version(str(exact(adapter)))
            return Choice(adapter.adapter, version, adapter.weight)

        return tuple([tuple(await asyncio.gather(*map(choice, branch.adapters))) for branch in branches])

    def _swap(self, route: Route) -> None:
        """Point a route to choices that are in the pool. On disk first: a switch that would be lost is none."""
        self._book.write(route.history)
        self._hold(route)

    def _hold(self, route: Route) -> None:
        before = self._routes.get(route.state.name)
        self._pool.keep(route.held)
        self._routes[route.state.name] = route
        if before is not None:
            self._pool.let_go(before.held)

    def _bounded(self, route: Route, before: Route | None) -> Route:
        """The route, once it is found to keep no more rows than it may. Raises QuotaExceeded."""
        if not route.state.boundless:
            self._pool.check_share(route.held, before.held if before else ())
        return route

    def _check_owner(self, route: Route | None) -> None:
        """The caller may still change it: another may have made it, or switched it, while adapters were loaded."""
        if route is not None:
            rights().require(Permission.PUSH, route.state.homes)

    def _check_standing(self, choices: Choices) -> None:
        """None of them was withdrawn while it was loaded: nobody would let go of it again."""
        for chosen in choices:
            for choice in chosen:
                self._withdrawn.check(choice)

    def _check_revision(self, name: str, expected: int | None) -> None:
        stored = self._routes[name].state.revision if name in self._routes else 0
        if expected not in (None, stored):
            raise RevisionConflict(f"route {name}: expected revision {expected}, it has {stored}", revision=str(stored))


def _is_behind(state: RouteState, reference: Reference, version: Version) -> bool:
    return any(a.digest != version.digest and parse_reference(a.adapter) == reference for a in state.adapters)
