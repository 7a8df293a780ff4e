"""What the items of one call mean: each reference and each route looked up once.

Owns that a name means the same in the whole call, however many items use it. Does not know what is
done with the adapters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from compute_worker.runtime.api import ScoreItem, Weighted
from compute_worker.runtime.route import Route
from compute_worker.runtime.routes import Routes
from compute_worker.runtime.scorecheck import of_item
from compute_worker.runtime.selection import Resolver, check_selection, distinct
from compute_worker.runtime.version import Choice, Version
from lorry.errors import InvalidSelection


@dataclass(frozen=True, slots=True)
class Target:
    """The adapters of an item, and the route that they came from: empty where it named them itself."""

    choices: tuple[Choice, ...]
    route: str = ""
    revision: int = 0


class Targets:
    """Looks up what items name."""

    def __init__(self, resolver: Resolver, routes: Routes) -> None:
        self._resolver = resolver
        self._routes = routes

    async def resolve(self, items: Sequence[ScoreItem]) -> list[Target]:
        """The target of each item. Raises InvalidSelection, RouteNotFound, what resolving raises."""
        # Routes are read before anything is awaited: they are those that the caller was let in for.
        routes = {
            item.route: self._route(index, item.route) for index, item in enumerate(items) if item.selection is None
        }
        versions: dict[str, Version] = {}
        found: dict[str, Target] = {}
        targets = []
        for index, item in enumerate(items):
            with of_item(index):
                if item.selection is not None:
                    targets.append(await self._selected(item.selection, versions))
                    continue
                if item.route not in found:
                    found[item.route] = await self._led(routes[item.route])
                targets.append(found[item.route])
        return targets

    def _route(self, index: int, name: str) -> Route:
        with of_item(index):
            return self._routes.get(name)

    async def _selected(self, selection: Sequence[Weighted], versions: dict[str, Version]) -> Target:
        check_selection(selection)
        new = [adapter.adapter for adapter in selection if adapter.adapter not in versions]
        found = await asyncio.gather(*(self._resolver.version(reference) for reference in new))
        versions.update(zip(new, found, strict=True))
        return Target(distinct([Choice(a.adapter, versions[a.adapter], a.weight) for a in selection]))

    async def _led(self, route: Route) -> Target:
        state = route.state
        if len(state.branches) > 1:
            names = ", ".join(branch.name for branch in state.branches)
            raise InvalidSelection(
                f"route {state.name} has several branches ({names}): expected adapters, or one branch"
            )
        return Target(await self._routes.choices(route, 0), state.name, state.revision)
