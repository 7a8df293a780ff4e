"""The worker's client: generation, routes, residency, combination.

Owns the pythonic spelling of InferenceService and ResidencyService. Answers are the messages of
lorry.v1. Does not know what any adapter does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Unpack

from google.protobuf.duration_pb2 import Duration

from lorry.combination import Parameter, combine_request
from lorry.connection import Connection, received
from lorry.errors import InvalidInput
from lorry.generation import GenerateOptions, Generation, generate_request
from lorry.interpolation import Point, along
from lorry.rpc.credentials import Credentials
from lorry.scoring import Item, score_requests, scores
from lorry.search import Tried, tried
from lorry.selection import Adapters, branches_of, reshared, selection
from lorry.v1 import inference_pb2 as pb
from lorry.v1 import residency_pb2 as residency
from lorry.v1.inference_pb2_grpc import InferenceServiceStub
from lorry.v1.residency_pb2_grpc import ResidencyServiceStub

# Calls that load adapters wait for the registry and for room in the pool; a big combination computes.
DEFAULT_TIMEOUT_SECONDS = 300.0


# Where `load` brings an adapter, the fastest first.
LOAD_TIERS = ("pool", "host", "disk")


class WorkerClient(Connection):
    """A compute worker at `host:port`. Every method raises what its rpc documents, as a class of lorry.errors.

    Adapters are written as lorry.selection says: "pirate", ["pirate", ("json", 0.5)] or
    {"pirate": 0.7, "json": 0.3}; empty is the base model alone.
    """

    def __init__(
        self, address: str, *, timeout: float = DEFAULT_TIMEOUT_SECONDS, **credentials: Unpack[Credentials]
    ) -> None:
        super().__init__(address, timeout=timeout, **credentials)
        self._inference = InferenceServiceStub(self._channel)
        self._residency = ResidencyServiceStub(self._channel)

    def generate(
        self, prompt: str | None = None, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Begin a generation out of a raw `prompt`, of `messages=` or of `tokens=`; see GenerateOptions.

        `timeout` in seconds bounds all of it, None not at all. Raises InvalidInput here, what the
        worker raises while the answer is read.
        """
        request = generate_request(prompt, options)
        return Generation(self._inference.Generate(request, timeout=timeout))

    def score(
        self, items: Iterable[Item], *, tenant: str = "", priority: int = 0, timeout: float | None = None
    ) -> AsyncGenerator[pb.ScoreResponse, None]:
        """How likely the continuation of each item is, as they are done: `index` says which item it was.

        Any number of items: they are taken as they are needed, a call of some hundred after the other.
        `timeout` in seconds bounds each call, None none. Raises InvalidInput, what the worker raises.
        """
        return self._scored(score_requests(items, tenant=tenant, priority=priority), timeout)

    def _scored(
        self, requests: Iterable[tuple[int, pb.ScoreRequest]], timeout: float | None
    ) -> AsyncGenerator[pb.ScoreResponse, None]:
        return scores((first, self._inference.Score(request, timeout=timeout)) for first, request in requests)

    def search(
        self, candidates: Sequence[Mapping[str, float]], examples: Sequence[Item], *, timeout: float | None = None
    ) -> AsyncGenerator[Tried, None]:
        """How well each candidate, adapters with weights, explains the examples; see lorry.search for candidates.

        The examples name no adapters. A candidate is told as soon as its last example is scored; nothing
        is combined for it. `timeout` and errors as of `score`.
        """
        return tried(candidates, examples, lambda items: self.score(items, timeout=timeout))

    async def interpolate(
        self, first: str, second: str, prompt: str | None = None, *, steps: int = 5, **options: Unpack[GenerateOptions]
    ) -> list[Point]:
        """Answers along the line between two adapters, `steps` of them with both ends, together in the worker's batch.

        `options` are those of `generate`, but for adapters and a route. Raises InvalidInput, and what the
        worker raises for any of them.
        """
        return await along(first, second, steps, options, lambda point: self.generate(prompt, **point))

    async def switch(
        self, adapters: Adapters, *, route: str = "default", expected_revision: int | None = None
    ) -> pb.Route:
        """Give a route a new selection. `expected_revision` 0: it must not exist yet. Raises RevisionConflict."""
        request = pb.SwitchRequest(
            route=route,
            targets=[pb.RouteTarget(selection=selection(adapters))],
            expected_revision=expected_revision,
        )
        return (await self._call(self._inference.Switch, request)).route

    async def split(
        self,
        branches: Mapping[str, tuple[float, Adapters]],
        *,
        route: str = "default",
        expected_revision: int | None = None,
    ) -> pb.Route:
        """Give a route branches by name: `split({"control": (0.9, "pirate@3"), "canary": (0.1, "pirate@4")})`.

        A share is relative to the others. Raises as `switch`.
        """
        request = pb.SwitchRequest(route=route, targets=branches_of(branches), expected_revision=expected_revision)
        return (await self._call(self._inference.Switch, request)).route

    async def share(self, shares: Mapping[str, float], *, route: str = "default") -> pb.Route:
        """Give branches of a route other shares; the rest stays as it is written.

        Raises InvalidSelection where there is no such branch, RevisionConflict where the route was changed meanwhile.
        """
        now = await self.route(route)
        targets = reshared(now.targets, shares)
        request = pb.SwitchRequest(route=route, targets=targets, expected_revision=now.revision)
        return (await self._call(self._inference.Switch, request)).route

    async def route(self, name: str = "default") -> pb.Route:
        """One route. Raises RouteNotFound."""
        return (await self._call(self._inference.GetRoute, pb.GetRouteRequest(route=name))).route

    def routes(self) -> AsyncIterator[pb.Route]:
        """The routes by name."""
        return self._listed(self._inference.ListRoutes, pb.ListRoutesRequest(), lambda page: page.routes)

    def route_history(self, name: str = "default") -> AsyncIterator[pb.Route]:
        """The revisions of a route that are kept, newest first. Raises RouteNotFound."""
        request = pb.ListRouteHistoryRequest(route=name)
        return self._listed(self._inference.ListRouteHistory, request, lambda page: page.revisions)

    async def rollback_route(
        self, name: str = "default", revision: int = 0, *, expected_revision: int | None = None
    ) -> pb.Route:
        """Give a route the branches of an earlier revision, 0: of the one before, by digest.

        Raises RouteNotFound, NoEarlierVersion, RevisionConflict.
        """
        request = pb.RollbackRouteRequest(route=name, revision=revision, expected_revision=expected_revision)
        return (await self._call(self._inference.RollbackRoute, request)).route

    async def delete_route(self, name: str, *, expected_revision: int | None = None) -> None:
        """Remove a route. Raises RouteNotFound, RevisionConflict, InvalidInput for `default`."""
        request = pb.DeleteRouteRequest(route=name, expected_revision=expected_revision)
        await self._call(self._inference.DeleteRoute, request)

    async def load(self, reference: str, *, tier: str = "pool") -> residency.Resident:
        """Bring an adapter into the pool, or ahead of time into "host" memory or onto the "disk" of the worker.

        Raises InvalidInput, the registry's errors on the reference, CacheBusy.
        """
        request = residency.LoadRequest(adapter=reference, tier=_tier(tier))
        return (await self._call(self._residency.Load, request)).resident

    async def unload(self, reference: str) -> residency.UnloadResponse:
        """Drop an adapter from the pool and from host memory. Raises AdapterPinned, AdapterInUse."""
        return await self._call(self._residency.Unload, residency.UnloadRequest(adapter=reference))

    async def pin(self, reference: str, *, ttl: timedelta | None = None) -> residency.Resident:
        """Load an adapter and keep it from eviction, for `ttl` or until `unpin`."""
        request = residency.PinRequest(adapter=reference, ttl=None if ttl is None else _duration(ttl))
        return (await self._call(self._residency.Pin, request)).resident

    async def unpin(self, reference: str) -> residency.Resident:
        """Let a pinned adapter go."""
        request = residency.PinRequest(adapter=reference, unpin=True)
        return (await self._call(self._residency.Pin, request)).resident

    def residents(self) -> AsyncIterator[residency.Resident]:
        """What is resident, most recently used first."""
        request = residency.ListResidentRequest()
        return self._listed(self._residency.ListResident, request, lambda page: page.residents)

    def watch(self) -> AsyncGenerator[residency.WatchResidencyResponse, None]:
        """First everything that is resident, then each change; without end. Raises Lagging."""
        return received(self._residency.WatchResidency(residency.WatchResidencyRequest()))

    async def combine(
        self,
        /,
        sources: Adapters,
        method: str,
        *,
        publish: str = "",
        alias: str = "",
        description: str = "",
        dry_run: bool = False,
        **parameters: Parameter,
    ) -> residency.CombineResponse:
        """Make a new adapter: `combine({"a": 1, "b": 0.5}, "ties", density=0.5, publish="team/mix")`.

        `parameters` are those of the method's message in residency.proto; `majority_sign` is
        "total" or "frequency". `dry_run` says what it would be, and keeps and publishes nothing. To make a
        published combination again: `combine(recipe.sources, recipe.method, **recipe.parameters)` with what
        RegistryClient.recipe answers. Raises InvalidCombination, UnsupportedCombination.
        """
        target = residency.PublishTarget(adapter=publish, alias=alias, description=description) if publish else None
        request = combine_request(sources, method, parameters, target)
        request.dry_run = dry_run
        return await self._call(self._residency.Combine, request)

    async def capabilities(self) -> residency.GetCapabilitiesResponse:
        """What this worker can serve, and how much of its budgets is used."""
        return await self._call(self._residency.GetCapabilities, residency.GetCapabilitiesRequest())


def _tier(name: str) -> residency.Tier.ValueType:
    if name not in LOAD_TIERS:
        raise InvalidInput(f"tier: expected one of {', '.join(LOAD_TIERS)}, got {name!r}")
    return residency.Tier.Value(f"TIER_{name.upper()}")


def _duration(span: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(span)
    return duration
