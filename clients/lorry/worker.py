"""The worker's client: generation, routes, residency, combination.

Owns the pythonic spelling of InferenceService and ResidencyService. Answers are the messages of
lorry.v1. Does not know what any adapter does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from typing import Unpack

from google.protobuf.duration_pb2 import Duration

from lorry.combination import Parameter, combine_request
from lorry.connection import Connection, received
from lorry.generation import GenerateOptions, Generation, generate_request
from lorry.rpc.credentials import Credentials
from lorry.selection import Adapters, selection
from lorry.v1 import inference_pb2 as pb
from lorry.v1 import residency_pb2 as residency
from lorry.v1.inference_pb2_grpc import InferenceServiceStub
from lorry.v1.residency_pb2_grpc import ResidencyServiceStub

# Calls that load adapters wait for the registry and for room in the pool; a big combination computes.
DEFAULT_TIMEOUT_SECONDS = 300.0


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

    async def route(self, name: str = "default") -> pb.Route:
        """One route. Raises RouteNotFound."""
        return (await self._call(self._inference.GetRoute, pb.GetRouteRequest(route=name))).route

    def routes(self) -> AsyncIterator[pb.Route]:
        """The routes by name."""
        return self._listed(self._inference.ListRoutes, pb.ListRoutesRequest(), lambda page: page.routes)

    async def load(self, reference: str) -> residency.Resident:
        """Bring an adapter into the pool. Raises the registry's errors on the reference, CacheBusy."""
        return (await self._call(self._residency.Load, residency.LoadRequest(adapter=reference))).resident

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
        **parameters: Parameter,
    ) -> residency.CombineResponse:
        """Make a new adapter: `combine({"a": 1, "b": 0.5}, "ties", density=0.5, publish="team/mix")`.

        `parameters` are those of the method's message in residency.proto; `majority_sign` is
        "total" or "frequency". Raises InvalidCombination, UnsupportedCombination.
        """
        target = residency.PublishTarget(adapter=publish, alias=alias, description=description) if publish else None
        return await self._call(self._residency.Combine, combine_request(sources, method, parameters, target))

    async def capabilities(self) -> residency.GetCapabilitiesResponse:
        """What this worker can serve, and how much of its budgets is used."""
        return await self._call(self._residency.GetCapabilities, residency.GetCapabilitiesRequest())


def _duration(span: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(span)
    return duration
