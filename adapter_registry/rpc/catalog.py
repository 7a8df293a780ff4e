"""CatalogService on the wire: its parts put together, and the calls that concern bases and events.

Owns their requests and answers. Does not know how bases are stored or where events come from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from adapter_registry.rpc.access_guard import judge_again
from adapter_registry.rpc.adapters import AdapterCalls
from adapter_registry.rpc.answers import base_answer, event_answer
from adapter_registry.rpc.calls import Context
from adapter_registry.rpc.leases import LeaseCalls
from adapter_registry.rpc.lineage import LineageCalls
from adapter_registry.rpc.requests import base_of, masked_family, namespace_of, page_of, updated_base
from adapter_registry.rpc.verdicts import VerdictCalls
from adapter_registry.rpc.versions import VersionCalls
from adapter_registry.service.compatibility import find_base, update_family
from adapter_registry.service.rules import check_base
from lorry.rpc import requestid
from lorry.v1 import catalog_pb2 as pb
from lorry.v1.catalog_pb2_grpc import CatalogServiceServicer


class CatalogServicer(VersionCalls, AdapterCalls, LineageCalls, LeaseCalls, VerdictCalls, CatalogServiceServicer):
    """Answers CatalogService."""

    async def RegisterBaseModel(
        self, request: pb.RegisterBaseModelRequest, context: Context
    ) -> pb.RegisterBaseModelResponse:
        """Make a base model known."""
        base, created = await self._writes.run(self._catalog.add_base, check_base(base_of(request)))
        self._registry.judging.wake()  # a base that was known may have told of its experts
        return pb.RegisterBaseModelResponse(base_model=base_answer(base), created=created)

    async def GetBaseModel(self, request: pb.GetBaseModelRequest, context: Context) -> pb.GetBaseModelResponse:
        """Read one base model."""
        base = await self._queries.run(find_base, self._catalog, request.base_model)
        return pb.GetBaseModelResponse(base_model=base_answer(base))

    async def ListBaseModels(self, request: pb.ListBaseModelsRequest, context: Context) -> pb.ListBaseModelsResponse:
        """A page of base models, by name."""
        listing = await self._queries.run(self._catalog.list_bases, page_of(request))
        bases = [base_answer(base, modules=False) for base in listing.items]
        return pb.ListBaseModelsResponse(base_models=bases, next_page_token=listing.next_token)

    async def UpdateBaseModel(self, request: pb.UpdateBaseModelRequest, context: Context) -> pb.UpdateBaseModelResponse:
        """Write the masked fields of a base's family."""
        name, (derived_from, carry_over) = updated_base(request), masked_family(request)
        base = await self._writes.run(update_family, self._catalog, name, derived_from, carry_over)
        self._registry.judging.wake()
        return pb.UpdateBaseModelResponse(base_model=base_answer(base, modules=False))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        """Events in commit order, without end."""
        namespace = namespace_of(request.namespace)
        # Fixed before the headers go out: whoever has them misses nothing that happens later.
        token = request.resume_token or str(await self._queries.run(self._catalog.last_event))
        async with aclosing(self._registry.watcher.watch(token, namespace, judge_again)) as events:
            await context.send_initial_metadata(requestid.metadata())
            async for event in events:
                yield event_answer(event)
