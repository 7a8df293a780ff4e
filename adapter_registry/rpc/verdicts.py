"""The calls of CatalogService that say what fits what.

Owns their requests and answers. Does not know the reasons of a verdict, or which are stored.
"""

from __future__ import annotations

import asyncio
from functools import partial

from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import page_of
from lorry.errors import InvalidInput
from lorry.format.derive import outline
from lorry.format.findings import Finding
from lorry.format.reference import parse_reference
from lorry.rpc.convert import finding_to_pb
from lorry.v1 import catalog_pb2 as pb


class VerdictCalls(Calls):
    """CheckCompatibility, ListVerdicts."""

    async def CheckCompatibility(
        self, request: pb.CheckCompatibilityRequest, context: Context
    ) -> pb.CheckCompatibilityResponse:
        """The verdict on a published version or on an outline; nothing is written."""
        if not request.base_model:
            raise InvalidInput("base_model: expected the name or base_id of a base, got none")
        findings = await self._findings(request)
        return pb.CheckCompatibilityResponse(
            compatible=all(finding.warning for finding in findings),
            findings=[finding_to_pb(finding) for finding in findings],
        )

    async def ListVerdicts(self, request: pb.ListVerdictsRequest, context: Context) -> pb.ListVerdictsResponse:
        """A page of verdicts on a version, by name of the base."""
        listing = await self._registry.judging.all(parse_reference(request.adapter), page_of(request))
        verdicts = [
            pb.Verdict(
                base_id=verdict.base_id,
                base_model=verdict.base_name,
                compatible=verdict.compatible,
                findings=[finding_to_pb(finding) for finding in verdict.findings],
            )
            for verdict in listing.items
        ]
        return pb.ListVerdictsResponse(verdicts=verdicts, next_page_token=listing.next_token)

    async def _findings(self, request: pb.CheckCompatibilityRequest) -> tuple[Finding, ...]:
        match request.WhichOneof("subject"):
            case "adapter":
                return await self._registry.judging.on(parse_reference(request.adapter), request.base_model)
            case "outline":
                given = request.outline
                read = partial(outline, given.config_json, given.safetensors_header, given.weights_size_bytes)
                facts = await asyncio.to_thread(read)  # of a large one it takes a while
                return (await self._registry.judge(facts, request.base_model)).findings
            case _:
                raise InvalidInput("subject: expected the reference of a version or an outline, got neither")
