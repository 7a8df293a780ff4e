"""ResidencyService on the wire.

Owns the pages and the capabilities' spelling. Does not know tiers, merges or the engine: the
runtime does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version

from compute_worker.contract import Engine, PublishedAdapter
from compute_worker.rpc import replies, requests
from compute_worker.rpc.paging import page
from compute_worker.rpc.requests import Context
from compute_worker.runtime.api import Combined, Dry
from compute_worker.runtime.rights import Permission, rights
from compute_worker.runtime.runtime import Runtime
from lorry.errors import InvalidInput
from lorry.format.facts import Feature, Variant
from lorry.format.reference import parse_reference
from lorry.rpc.convert import manifest_to_pb, variant_to_pb
from lorry.v1 import residency_pb2, residency_pb2_grpc, types_pb2


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What does not change while the worker runs. `methods`: what Combine takes."""

    base_model: str
    executor: str
    methods: tuple[str, ...]
    max_adapters: int


class ResidencyServicer(residency_pb2_grpc.ResidencyServiceServicer):
    """What the worker holds."""

    def __init__(self, runtime: Runtime, engine: Engine, capabilities: Capabilities) -> None:
        self._runtime = runtime
        self._engine = engine
        self._capabilities = capabilities

    async def Load(self, request: residency_pb2.LoadRequest, context: Context) -> residency_pb2.LoadResponse:
        """See the proto."""
        state = await self._runtime.load(request.adapter, requests.load_tier(request))
        return residency_pb2.LoadResponse(resident=replies.resident(state))

    async def Unload(self, request: residency_pb2.UnloadRequest, context: Context) -> residency_pb2.UnloadResponse:
        """See the proto."""
        digest, was_resident = await self._runtime.unload(request.adapter)
        return residency_pb2.UnloadResponse(digest=digest, was_resident=was_resident)

    async def Pin(self, request: residency_pb2.PinRequest, context: Context) -> residency_pb2.PinResponse:
        """See the proto."""
        ttl = requests.seconds(request.ttl) if request.HasField("ttl") else None
        if ttl is not None and ttl <= 0:
            raise InvalidInput(f"ttl: expected more than 0 seconds, got {ttl}")
        state = await self._runtime.pin(request.adapter, unpin=request.unpin, ttl=ttl)
        return residency_pb2.PinResponse(resident=replies.resident(state))

    async def ListResident(
        self, request: residency_pb2.ListResidentRequest, context: Context
    ) -> residency_pb2.ListResidentResponse:
        """See the proto."""
        readable = [r for r in self._runtime.residents() if rights().reach(Permission.READ, r.homes)]
        states, token = page(readable, lambda r: r.digest, request.page_size, request.page_token)
        return residency_pb2.ListResidentResponse(
            residents=[replies.resident(s) for s in states], next_page_token=token
        )

    async def WatchResidency(
        self, request: residency_pb2.WatchResidencyRequest, context: Context
    ) -> AsyncIterator[residency_pb2.WatchResidencyResponse]:
        """See the proto."""
        async with aclosing(self._runtime.watch()) as changes:
            async for state, initial in changes:
                if not rights().reach(Permission.READ, state.homes):
                    continue
                yield residency_pb2.WatchResidencyResponse(resident=replies.resident(state), initial=initial)

    async def Combine(self, request: residency_pb2.CombineRequest, context: Context) -> residency_pb2.CombineResponse:
        """See the proto."""
        return combine_response(await self._runtime.combine(requests.combine_call(request)))

    async def GetCapabilities(
        self, request: residency_pb2.GetCapabilitiesRequest, context: Context
    ) -> residency_pb2.GetCapabilitiesResponse:
        """See the proto."""
        fixed, limits = self._capabilities, self._engine.limits
        return residency_pb2.GetCapabilitiesResponse(
            base_id=self._engine.base.base_id,
            base_model=fixed.base_model,
            device=self._engine.device,
            dtype=self._engine.dtype,
            executor=fixed.executor,
            variants=[variant_to_pb(v) for v in Variant],
            max_rank=limits.pool_rows,
            max_adapters_per_selection=fixed.max_adapters,
            max_context_tokens=limits.max_context,
            budgets=[residency_pb2.Budget(name=b.name, limit=b.limit, used=b.used) for b in self._runtime.budgets()],
            combine_methods=fixed.methods,
            version=version("lorry"),
            features=[feature.value for feature in Feature],
        )


def combine_response(combined: Combined) -> residency_pb2.CombineResponse:
    """The result of a combination."""
    reply = residency_pb2.CombineResponse(
        recipe_digest=combined.recipe_digest, adapter=combined.adapter, existed=combined.existed
    )
    if combined.resident is not None:
        reply.resident.CopyFrom(replies.resident(combined.resident))
    if combined.published is not None:
        reply.version.CopyFrom(_version(combined.published))
    if combined.dry is not None:
        reply.dry_run.CopyFrom(_dry_run(combined.dry))
    return reply


def _dry_run(dry: Dry) -> residency_pb2.DryRun:
    return residency_pb2.DryRun(
        rank=dry.rank,
        size_bytes=dry.size,
        relative_error=dry.deviation.relative_error,
        worst_module=dry.deviation.worst_module,
        worst_relative_error=dry.deviation.worst_relative_error,
    )


def _version(published: PublishedAdapter) -> types_pb2.Version:
    reference = parse_reference(published.reference)
    return types_pb2.Version(
        digest=published.digest,
        namespace=reference.adapter.namespace,
        name=reference.adapter.name,
        number=reference.number or 0,
        manifest=manifest_to_pb(published.manifest),
        size_bytes=published.manifest.size,
    )
