"""The calls of AdminService that concern namespaces.

Owns their requests and answers. Does not know how namespaces are stored, or what a key is.
"""

from __future__ import annotations

from adapter_registry.domain.acting import Permission, actor
from adapter_registry.domain.namespaces import NamespaceChange, NamespaceRecord
from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import page_of
from adapter_registry.service.namespaces import check_change
from lorry.errors import InvalidFieldMask
from lorry.format.reference import check_name
from lorry.v1 import admin_pb2 as pb

_WRITABLE = frozenset({"max_bytes", "max_versions", "trusted_keys"})


class NamespaceCalls(Calls):
    """GetNamespace, ListNamespaces, UpdateNamespace."""

    async def GetNamespace(self, request: pb.GetNamespaceRequest, context: Context) -> pb.GetNamespaceResponse:
        """Read one namespace."""
        name = check_name(request.namespace, "namespace")
        record = await self._queries.run(self._registry.namespaces.get_namespace, name)
        return pb.GetNamespaceResponse(namespace=_answer(record))

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Context) -> pb.ListNamespacesResponse:
        """A page of the namespaces that the caller may read, by name."""
        readable = actor().rights.where(Permission.READ)
        listing = await self._queries.run(self._registry.namespaces.list_namespaces, readable, page_of(request))
        namespaces = [_answer(record) for record in listing.items]
        return pb.ListNamespacesResponse(namespaces=namespaces, next_page_token=listing.next_token)

    async def UpdateNamespace(self, request: pb.UpdateNamespaceRequest, context: Context) -> pb.UpdateNamespaceResponse:
        """Write the masked fields."""
        change = check_change(_change(request))
        record = await self._writes.run(self._registry.namespaces.update_namespace, change)
        return pb.UpdateNamespaceResponse(namespace=_answer(record))


def _change(request: pb.UpdateNamespaceRequest) -> NamespaceChange:
    """Raises InvalidName, InvalidFieldMask."""
    wanted, paths = request.namespace, set(request.update_mask.paths)
    if not paths or not paths <= _WRITABLE:
        raise InvalidFieldMask(f"expected paths among {sorted(_WRITABLE)}, got {sorted(paths)[:20]}")
    return NamespaceChange(
        name=check_name(wanted.name, "namespace"),
        max_bytes=wanted.max_bytes if "max_bytes" in paths else None,
        max_versions=wanted.max_versions if "max_versions" in paths else None,
        trusted_keys=tuple(wanted.trusted_keys) if "trusted_keys" in paths else None,
        revision=wanted.revision or None,
    )


def _answer(record: NamespaceRecord) -> pb.Namespace:
    return pb.Namespace(
        name=record.name,
        max_bytes=record.max_bytes,
        max_versions=record.max_versions,
        trusted_keys=record.trusted_keys,
        used_bytes=record.used_bytes,
        uploading_bytes=record.uploading_bytes,
        used_versions=record.used_versions,
        adapter_count=record.adapter_count,
        revision=record.revision,
    )
