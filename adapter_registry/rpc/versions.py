"""The calls of CatalogService that concern versions.

Owns their requests and answers. Does not know how a version is checked or stored.
"""

from __future__ import annotations

from adapter_registry.domain.filters import VERSION_FIELDS, parse_filter
from adapter_registry.rpc.answers import version_answer
from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import exact_reference, page_of, submission_of, told
from adapter_registry.service.rules import check_reason
from lorry.format.reference import parse_adapter_name, parse_reference
from lorry.v1 import catalog_pb2 as pb


class VersionCalls(Calls):
    """CreateVersion, GetVersion, ListVersions, YankVersion, DeleteVersion, Resolve."""

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
        adapter, terms = parse_adapter_name(request.adapter), parse_filter(request.filter, VERSION_FIELDS)
        listing = await self._queries.run(self._catalog.list_versions, adapter, page_of(request), terms)
        versions = [version_answer(version) for version in listing.items]
        return pb.ListVersionsResponse(versions=versions, next_page_token=listing.next_token)

    async def YankVersion(self, request: pb.YankVersionRequest, context: Context) -> pb.YankVersionResponse:
        """Hide a version from resolution by name."""
        reference, reason = parse_reference(request.adapter), check_reason(request.reason)
        version = await self._writes.run(self._catalog.yank_version, reference, reason)
        return pb.YankVersionResponse(version=version_answer(version))

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> pb.DeleteVersionResponse:
        """Delete the one version that the reference names."""
        reference = exact_reference(request.adapter)
        deletion = await self._writes.run(self._catalog.delete_version, reference, force=request.force)
        return pb.DeleteVersionResponse(
            digest=deletion.versions[0],
            deleted_aliases=told(deletion.aliases),
            orphaned_children=told(deletion.orphans),
            broken_leases=told(deletion.leases),
        )

    async def Resolve(self, request: pb.ResolveRequest, context: Context) -> pb.ResolveResponse:
        """What a reference means now."""
        version = await self._queries.run(self._catalog.resolve, parse_reference(request.adapter))
        return pb.ResolveResponse(version=version_answer(version))
