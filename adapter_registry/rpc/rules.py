"""What each call needs: which permission, in which namespaces of its request.

Owns one table with a line for every rpc; a server with an rpc that has no line does not start. A call
that names no namespace needs none: its answer holds what the caller may read, which is the business
of whoever makes the answer. Does not know who calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from adapter_registry.domain.acting import EVERYWHERE, Permission
from lorry.format.reference import DEFAULT_NAMESPACE, check_name, parse_reference
from lorry.v1 import access_pb2, admin_pb2, blob_pb2, catalog_pb2

Need = tuple[Permission, str]
# The needs of a request; of the first message, where a call has several. Raises InvalidReference, InvalidName.
Rule = Callable[[Any], Sequence[Need]]

READ, PUSH, ADMIN = Permission.READ, Permission.PUSH, Permission.ADMIN
SERVICES: Final = tuple(
    service
    for file in (catalog_pb2, blob_pb2, admin_pb2, access_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
# Of every server, and about nobody's adapters.
OPEN_SERVICES: Final = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"}
)


class _HasAdapter(Protocol):
    @property
    def adapter(self) -> str: ...


class _HasNamespace(Protocol):
    @property
    def namespace(self) -> str: ...


def _known(_request: object) -> Sequence[Need]:
    """Whoever is known may call it."""
    return ()


def _everywhere(_request: object) -> Sequence[Need]:
    return [(ADMIN, EVERYWHERE)]


def _of_adapter(permission: Permission) -> Rule:
    """`adapter` is a reference or a name."""

    def needs(request: _HasAdapter) -> Sequence[Need]:
        return [(permission, _namespace_in(request.adapter))]

    return needs


def _where_named(permission: Permission) -> Rule:
    """`namespace` may be unset: then the answer is about all that the caller has the permission for."""

    def needs(request: _HasNamespace) -> Sequence[Need]:
        return [(permission, check_name(request.namespace, "namespace"))] if request.namespace else []

    return needs


def _of_namespace(permission: Permission) -> Rule:
    """`namespace` may be unset: then it is the default one."""

    def needs(request: _HasNamespace) -> Sequence[Need]:
        return [(permission, _or_default(request.namespace))]

    return needs


def _update_adapter(request: catalog_pb2.UpdateAdapterRequest) -> Sequence[Need]:
    # Retention deletes versions, which a pusher may not.
    permission = ADMIN if "keep_last" in request.update_mask.paths else PUSH
    return [(permission, _or_default(request.adapter.namespace))]


def _create_version(request: catalog_pb2.CreateVersionRequest) -> Sequence[Need]:
    # The sources of a recipe are digests: where they are readable is the catalogue's to say.
    return [(PUSH, _namespace_in(request.adapter)), *((READ, _namespace_in(parent)) for parent in request.parents)]


def _renew_leases(request: catalog_pb2.RenewLeasesRequest) -> Sequence[Need]:
    return [(READ, namespace) for namespace in sorted({_namespace_in(adapter) for adapter in request.adapters})]


def _check_compatibility(request: catalog_pb2.CheckCompatibilityRequest) -> Sequence[Need]:
    return [(READ, _namespace_in(request.adapter))] if request.WhichOneof("subject") == "adapter" else []


def _upload(request: object) -> Sequence[Need]:
    # Anything but a header is refused by the call itself, before it does anything.
    header = request.header if isinstance(request, blob_pb2.UploadRequest) else None
    return [(PUSH, _or_default(header.namespace))] if header else []


def _namespace_in(reference: str) -> str:
    return parse_reference(reference).adapter.namespace


def _or_default(namespace: str) -> str:
    return check_name(namespace, "namespace") if namespace else DEFAULT_NAMESPACE


_reads, _pushes, _administers = _of_adapter(READ), _of_adapter(PUSH), _of_adapter(ADMIN)

RULES: Final[dict[str, Rule]] = {
    "/lorry.v1.CatalogService/RegisterBaseModel": _everywhere,
    "/lorry.v1.CatalogService/GetBaseModel": _known,
    "/lorry.v1.CatalogService/ListBaseModels": _known,
    "/lorry.v1.CatalogService/UpdateBaseModel": _everywhere,
    "/lorry.v1.CatalogService/CreateVersion": _create_version,
    "/lorry.v1.CatalogService/GetVersion": _reads,
    "/lorry.v1.CatalogService/ListVersions": _reads,
    "/lorry.v1.CatalogService/YankVersion": _pushes,
    "/lorry.v1.CatalogService/DeleteVersion": _administers,
    "/lorry.v1.CatalogService/GetAdapter": _reads,
    "/lorry.v1.CatalogService/ListAdapters": _where_named(READ),
    "/lorry.v1.CatalogService/UpdateAdapter": _update_adapter,
    "/lorry.v1.CatalogService/DeleteAdapter": _administers,
    "/lorry.v1.CatalogService/SetAlias": _pushes,
    "/lorry.v1.CatalogService/DeleteAlias": _pushes,
    "/lorry.v1.CatalogService/RollbackAlias": _pushes,
    "/lorry.v1.CatalogService/ListAliases": _reads,
    "/lorry.v1.CatalogService/GetLineage": _reads,
    "/lorry.v1.CatalogService/ListVerdicts": _reads,
    "/lorry.v1.CatalogService/RenewLeases": _renew_leases,
    "/lorry.v1.CatalogService/ListLeases": _reads,
    "/lorry.v1.CatalogService/Resolve": _reads,
    "/lorry.v1.CatalogService/CheckCompatibility": _check_compatibility,
    "/lorry.v1.CatalogService/Watch": _where_named(READ),
    "/lorry.v1.BlobService/FindMissing": _of_namespace(PUSH),
    "/lorry.v1.BlobService/Upload": _upload,
    "/lorry.v1.BlobService/QueryUpload": _of_namespace(PUSH),
    "/lorry.v1.BlobService/Read": _known,
    "/lorry.v1.AdminService/GetNamespace": _of_namespace(READ),
    "/lorry.v1.AdminService/ListNamespaces": _known,
    # A tenant must not lift its own quota.
    "/lorry.v1.AdminService/UpdateNamespace": _everywhere,
    "/lorry.v1.AdminService/CollectGarbage": _everywhere,
    "/lorry.v1.AdminService/Fsck": _everywhere,
    "/lorry.v1.AdminService/ListAuditEntries": _where_named(ADMIN),
    "/lorry.v1.AccessService/CreatePrincipal": _everywhere,
    "/lorry.v1.AccessService/ListPrincipals": _everywhere,
    "/lorry.v1.AccessService/RevokePrincipal": _everywhere,
    "/lorry.v1.AccessService/WhoAmI": _known,
}


def unruled(rules: Iterable[str]) -> list[str]:
    """The rpcs of the registry's services that have no rule."""
    methods = {f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
    return sorted(methods - set(rules))
