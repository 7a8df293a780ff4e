"""The call of CatalogService that tells where a version comes from.

Owns its request and answer. Does not know how far the catalogue follows, or what the caller may see.
"""

from __future__ import annotations

from adapter_registry.rpc.answers import lineage_answer
from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import depth_of
from lorry.format.reference import parse_reference
from lorry.v1 import catalog_pb2 as pb


class LineageCalls(Calls):
    """GetLineage."""

    async def GetLineage(self, request: pb.GetLineageRequest, context: Context) -> pb.GetLineageResponse:
        """What a version was made out of, and what was made out of it."""
        reference, depth = parse_reference(request.adapter), depth_of(request)
        return lineage_answer(await self._queries.run(self._catalog.get_lineage, reference, depth))
