"""What serves a request: a branch of a route, the adapters that it names, or what its session keeps.

Owns the choice between these, made at once when the request comes, and when a session takes something
new. Does not know how a version is found, how long a session lives, or who may use what.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compute_worker.runtime.api import GenerateCall
from compute_worker.runtime.branches import side
from compute_worker.runtime.names import Withdrawn
from compute_worker.runtime.rights import Homes, rights
from compute_worker.runtime.route import DEFAULT, Route, selection_digest
from compute_worker.runtime.routes import Routes
from compute_worker.runtime.selection import Resolver, check_weight
from compute_worker.runtime.sessions import Served, Sessions, Wanted
from compute_worker.runtime.version import Choice
from lorry.errors import RouteNotFound


@dataclass(frozen=True, slots=True)
class Aim:
    """What a request is to be served with; fixed when it came.

    before: what its session kept then. kept: whether that serves it. route: as it was then, with the
    place of the branch; None where a session or named adapters serve.
    """

    wanted: Wanted
    caller: str
    before: Served | None = None
    kept: bool = False
    route: Route | None = None
    place: int = 0

    @property
    def label(self) -> tuple[str, str, str] | None:
        """Route, branch and digest of the selection; None where no route serves it."""
        if self.route is not None:
            branch = self.route.state.branches[self.place]
            return self.route.state.name, branch.name, selection_digest(branch.adapters)
        if self.kept and self.before is not None and self.before.route:
            served = self.before
            return served.route, served.branch, selection_digest([choice.resolved for choice in served.choices])
        return None


class Aims:
    """Belongs to the event loop."""

    def __init__(self, resolver: Resolver, routes: Routes, withdrawn: Withdrawn, sessions: Sessions) -> None:
        self._resolver = resolver
        self._routes = routes
        self._withdrawn = withdrawn
        self._sessions = sessions

    def aim(self, call: GenerateCall, seed: int) -> Aim:
        """What a request means now. Raises RouteNotFound."""
        caller = rights().holder
        before = self._sessions.get(caller, call.session) if call.session else None
        wanted: Wanted = call.route if call.selection is None else call.selection
        if before is not None and not call.follow and wanted in ("", before.wanted):
            return Aim(before.wanted, caller, before, kept=True)
        if wanted == "":
            wanted = DEFAULT if before is None else before.wanted
        if not isinstance(wanted, str):
            return Aim(wanted, caller, before)
        route = self._routes.get(wanted)
        place = side(wanted, route.state.branches, _key(call, seed))
        return Aim(wanted, caller, before, route=route, place=place)

    async def served(self, aim: Aim) -> Served:
        """The versions behind it. Raises what resolving raises, VersionNotFound for what was deleted meanwhile."""
        if not aim.kept or aim.before is None:
            return await self._resolved(aim)
        for choice in aim.before.choices:
            if choice.exact is not None:
                self._withdrawn.check_exact(choice.exact)
        return aim.before

    def settle(self, call: GenerateCall, aim: Aim, served: Served) -> Served:
        """It can be served so: its session, if any, keeps that from now on.

        Answers what the session keeps: another request of it may have been quicker. Raises QuotaExceeded.
        """
        if not call.session:
            return served
        now = self._sessions.get(aim.caller, call.session)
        if now is not None and now is not aim.before and now.wanted == served.wanted:
            served = now
        self._sessions.keep(aim.caller, call.session, served)
        return served

    def session_homes(self, caller: str, session: str, *, follow: bool) -> Homes | None:
        """The namespaces that decide about what a session keeps or, where it follows, gets; None: there is none."""
        served = self._sessions.get(caller, session)
        if served is None:
            return None
        homes = tuple(group for choice in served.choices for group in choice.homes)
        return homes + self._homes_of(served.wanted) if follow else homes

    def route_homes(self, name: str) -> Homes:
        """The namespaces that decide about a route, none where there is no such route."""
        try:
            return self._routes.get(name).state.homes
        except RouteNotFound:
            return ()

    async def _resolved(self, aim: Aim) -> Served:
        if aim.route is None:
            selection = () if isinstance(aim.wanted, str) else aim.wanted
            return Served(aim.wanted, await self._resolver.choose(selection))
        state = aim.route.state
        choices = await self._routes.choices(aim.route, aim.place)
        return Served(aim.wanted, choices, state.name, state.revision, state.branches[aim.place].name)

    def _homes_of(self, wanted: Wanted) -> Homes:
        if isinstance(wanted, str):
            return self.route_homes(wanted)
        return tuple(group for item in wanted for group in self._resolver.homes(item.adapter))


def scaled(choices: tuple[Choice, ...], scale: float) -> tuple[Choice, ...]:
    """The choices with their weights times a factor. Raises InvalidSelection where one is beyond what is served."""
    for choice in choices:
        check_weight(f"{choice.adapter} times {scale}", choice.weight * scale)
    return choices if scale == 1 else tuple(replace(choice, weight=choice.weight * scale) for choice in choices)


def _key(call: GenerateCall, seed: int) -> str:
    """What decides about the branch: the caller's key, else the session, else chance. None is spelled like another."""
    if call.affinity:
        return f"affinity {call.affinity}"
    return f"session {call.session}" if call.session else f"seed {seed}"
