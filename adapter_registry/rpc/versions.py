"""The calls of CatalogService that concern versions.

Owns their requests and answers. Does not know how a version is checked or stored.
"""

from __future__ import annotations

from adapter_registry.rpc.answers import version_answer
from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import exact_reference, page_of, submission_of
from adapter_registry.service.rules import check_reason
from lorry.errors import InvalidInput
from lorry.format.derive import outline
from lorry.format.facts import AdapterFacts
from lorry.format.reference import parse_adapter_name, parse_reference
from lorry.rpc.convert import finding_to_pb
from lorry.v1 import catalog_pb2 as pb


class VersionCalls(Calls):
    """CreateVersion, GetVersion, ListVersions, YankVersion, DeleteVersion, Resolve, CheckCompatibility."""

    async def CreateVersion(self, request: pb.CreateVersionRequest, context: Context) -> pb.CreateVersionResponse:
        """Publish a version out of stored blobs."""
        version, created = await self._registry.publisher.publish(submission_of(request))
        return pb.CreateVersionResponse(version=version_answer(version), created=created)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> pb.GetVersionResponse:
        """Read one version, yanked or not."""
        version = await self._queries.run(self._catalog.get_version, parse_reference(request.adapter))
        return pb.GetVersionResponse(version=version_answer(version))

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Context) -> pb.ListVersionsResponse:
        """A page of versions, newest first."""
        adapter = parse_adapter_name(request.adapter)
        listing = await self._queries.run(self._catalog.list_versions, adapter, page_of(request))
        versions = [version_answer(version) for version in listing.items]
        return pb.ListVersionsResponse(versions=versions, next_page_token=listing.next_token)

    async def YankVersion(self, request: pb.YankVersionRequest, context: Context) -> pb.YankVersionResponse:
        """Hide a version from resolution by name."""
        reference, reason = parse_reference(request.adapter), check_reason(request.reason)
        version = await self._queries.run(self._catalog.yank_version, reference, reason)
        return pb.YankVersionResponse(version=version_answer(version))

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> pb.DeleteVersionResponse:
        """Delete the one version that the reference names."""
        reference = exact_reference(request.adapter)
        deletion = await self._queries.run(self._catalog.delete_version, reference, force=request.force)
        return pb.DeleteVersionResponse(
            digest=deletion.versions[0], deleted_aliases=deletion.aliases, orphaned_children=deletion.orphans
        )

    async def Resolve(self, request: pb.ResolveRequest, context: Context) -> pb.ResolveResponse:
        """What a reference means now."""
        version = await self._queries.run(self._catalog.resolve, parse_reference(request.adapter))
        return pb.ResolveResponse(version=version_answer(version))

    async def CheckCompatibility(
        self, request: pb.CheckCompatibilityRequest, context: Context
    ) -> pb.CheckCompatibilityResponse:
        """The verdict on a published version or on an outline; nothing is written."""
        if not request.base_model:
            raise InvalidInput("base_model: expected the name or base_id of a base, got none")
        facts = await self._subject(request)
        findings = (await self._registry.judge(facts, request.base_model)).findings
        return pb.CheckCompatibilityResponse(
            compatible=all(finding.warning for finding in findings),
            findings=[finding_to_pb(finding) for finding in findings],
        )

    async def _subject(self, request: pb.CheckCompatibilityRequest) -> AdapterFacts:
        match request.WhichOneof("subject"):
            case "adapter":
                return await self._registry.facts_of(parse_reference(request.adapter))
            case "outline":
                given = request.outline
                return outline(given.config_json, given.safetensors_header, given.weights_size_bytes)
            case _:
                raise InvalidInput("subject: expected the reference of a version or an outline, got neither")
