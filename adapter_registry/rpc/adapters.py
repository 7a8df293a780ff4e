"""The calls of CatalogService that concern adapters and their aliases.

Owns their requests and answers. Does not know how they are stored.
"""

from __future__ import annotations

from adapter_registry.domain.acting import Permission, actor
from adapter_registry.domain.filters import parse_filter
from adapter_registry.rpc.answers import adapter_answer, alias_answer
from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import changed, namespace_of, page_of, told, updated_name
from lorry.format.reference import check_name, parse_adapter_name, parse_reference
from lorry.v1 import catalog_pb2 as pb


class AdapterCalls(Calls):
    """Get, list, update and delete adapters; set, delete, list and roll back aliases."""

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Context) -> pb.GetAdapterResponse:
        """Read one adapter."""
        adapter = await self._queries.run(self._catalog.get_adapter, parse_adapter_name(request.adapter))
        return pb.GetAdapterResponse(adapter=adapter_answer(adapter))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        """A page of the adapters that the caller may read, by namespace and name."""
        namespaces, terms = _readable(namespace_of(request.namespace)), parse_filter(request.filter)
        listing = await self._queries.run(self._catalog.list_adapters, namespaces, terms, page_of(request))
        adapters = [adapter_answer(adapter) for adapter in listing.items]
        return pb.ListAdaptersResponse(adapters=adapters, next_page_token=listing.next_token)

    async def UpdateAdapter(self, request: pb.UpdateAdapterRequest, context: Context) -> pb.UpdateAdapterResponse:
        """Write the masked fields."""
        name, change = updated_name(request), changed(request)
        adapter = await self._writes.run(
            self._catalog.update_adapter,
            name,
            description=change.description,
            labels=change.labels,
            keep_last=change.keep_last,
            revision=request.adapter.revision or None,
        )
        return pb.UpdateAdapterResponse(adapter=adapter_answer(adapter))

    async def DeleteAdapter(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        """Delete an adapter with all that belongs to it."""
        name = parse_adapter_name(request.adapter)
        deletion = await self._removals.run(self._catalog.delete_adapter, name, force=request.force)
        return pb.DeleteAdapterResponse(
            deleted_versions=told(deletion.versions),
            orphaned_children=told(deletion.orphans),
            broken_leases=told(deletion.leases),
        )

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Point an alias to a version."""
        reference, alias = parse_reference(request.adapter), check_name(request.alias, "alias")
        expected = request.expected_revision if request.HasField("expected_revision") else None
        record = await self._writes.run(self._catalog.set_alias, reference, alias, expected)
        return pb.SetAliasResponse(alias=alias_answer(record))

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        """Delete an alias; its history stays."""
        adapter, alias = parse_adapter_name(request.adapter), check_name(request.alias, "alias")
        expected = request.expected_revision if request.HasField("expected_revision") else None
        await self._writes.run(self._catalog.delete_alias, adapter, alias, expected)
        return pb.DeleteAliasResponse()

    async def RollbackAlias(self, request: pb.RollbackAliasRequest, context: Context) -> pb.RollbackAliasResponse:
        """Point an alias to where it pointed before its last move."""
        adapter, alias = parse_adapter_name(request.adapter), check_name(request.alias, "alias")
        expected = request.expected_revision if request.HasField("expected_revision") else None
        record = await self._writes.run(self._catalog.rollback_alias, adapter, alias, expected)
        return pb.RollbackAliasResponse(alias=alias_answer(record))

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        """The aliases of an adapter as they are, or the moves of one."""
        adapter, page = parse_adapter_name(request.adapter), page_of(request)
        if request.history_of:
            alias = check_name(request.history_of, "alias")
            listing = await self._queries.run(self._catalog.alias_history, adapter, alias, page)
        else:
            listing = await self._queries.run(self._catalog.list_aliases, adapter, page)
        aliases = [alias_answer(alias) for alias in listing.items]
        return pb.ListAliasesResponse(aliases=aliases, next_page_token=listing.next_token)


def _readable(namespace: str | None) -> frozenset[str] | None:
    """The namespaces of a list, None for all. Raises PermissionDenied for one that the caller may not read."""
    rights = actor().rights
    if namespace is None:
        return rights.where(Permission.READ)
    rights.require(Permission.READ, namespace)
    return frozenset({namespace})
