"""InferenceService on the wire.

Owns nothing but the order of messages. Does not know adapters, scheduling or the engine: the
runtime does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from compute_worker.rpc import replies, requests, scoring
from compute_worker.rpc.paging import page
from compute_worker.rpc.requests import Context
from compute_worker.runtime.api import Started
from compute_worker.runtime.rights import Permission, rights
from compute_worker.runtime.route import DEFAULT
from compute_worker.runtime.runtime import Runtime
from lorry.rpc import requestid
from lorry.v1 import inference_pb2, inference_pb2_grpc


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Generation, scores and routes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """See the proto."""
        call = requests.generate_call(request, requests.monotonic_deadline(context, time.monotonic()))
        # aclosing: a client that goes away frees its KV and leases now, not when it is collected.
        async with aclosing(self._runtime.generate(call)) as events:
            async for event in events:
                if isinstance(event, Started) and len(event.adapters) == 1:
                    requestid.about(event.adapters[0].digest)
                yield replies.generate_response(event)

    async def Score(
        self, request: inference_pb2.ScoreRequest, context: Context
    ) -> AsyncIterator[inference_pb2.ScoreResponse]:
        """See the proto."""
        call = scoring.score_call(request, requests.monotonic_deadline(context, time.monotonic()))
        async with aclosing(self._runtime.score(call)) as scores:
            async for score in scores:
                yield scoring.score_response(score)

    async def Switch(self, request: inference_pb2.SwitchRequest, context: Context) -> inference_pb2.SwitchResponse:
        """See the proto."""
        name = request.route or DEFAULT
        state = await self._runtime.switch(name, requests.targets(request), requests.expected_revision(request))
        return inference_pb2.SwitchResponse(route=replies.route(state))

    async def GetRoute(
        self, request: inference_pb2.GetRouteRequest, context: Context
    ) -> inference_pb2.GetRouteResponse:
        """See the proto."""
        state = self._runtime.route(request.route or DEFAULT)
        return inference_pb2.GetRouteResponse(route=replies.route(state))

    async def ListRoutes(
        self, request: inference_pb2.ListRoutesRequest, context: Context
    ) -> inference_pb2.ListRoutesResponse:
        """See the proto."""
        readable = [route for route in self._runtime.routes() if rights().reach(Permission.READ, route.homes)]
        states, token = page(readable, lambda r: r.name, request.page_size, request.page_token)
        return inference_pb2.ListRoutesResponse(routes=[replies.route(s) for s in states], next_page_token=token)

    async def ListRouteHistory(
        self, request: inference_pb2.ListRouteHistoryRequest, context: Context
    ) -> inference_pb2.ListRouteHistoryResponse:
        """See the proto."""
        history = self._runtime.route_history(request.route or DEFAULT)
        readable = [state for state in reversed(history) if rights().reach(Permission.READ, state.homes)]
        states, token = page(readable, lambda s: str(s.revision), request.page_size, request.page_token)
        return inference_pb2.ListRouteHistoryResponse(
            revisions=[replies.route(s) for s in states], next_page_token=token
        )

    async def RollbackRoute(
        self, request: inference_pb2.RollbackRouteRequest, context: Context
    ) -> inference_pb2.RollbackRouteResponse:
        """See the proto."""
        name = request.route or DEFAULT
        state = await self._runtime.rollback(name, request.revision, requests.expected_revision(request))
        return inference_pb2.RollbackRouteResponse(route=replies.route(state))

    async def DeleteRoute(
        self, request: inference_pb2.DeleteRouteRequest, context: Context
    ) -> inference_pb2.DeleteRouteResponse:
        """See the proto."""
        self._runtime.delete_route(request.route, requests.expected_revision(request))
        return inference_pb2.DeleteRouteResponse()
