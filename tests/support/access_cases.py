"""One request or more for every rpc of the registry, aimed at somebody's things.

Owns what an intruder would ask. Does not know what should be answered, but for what the owner of the
things may expect of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from lorry.rpc.convert import base_to_pb
from lorry.v1 import access_pb2, admin_pb2, blob_pb2, catalog_pb2, types_pb2
from tests.support.adapters import BASE_NAME, base_for
from tests.support.tenants import HOLDER


@dataclass(frozen=True)
class Aim:
    """Whose things a request is about: a namespace, its adapter, a version of it by digest, a blob, a
    broken upload, a principal. mine, files: namespace and files of whoever asks.
    """

    namespace: str
    name: str
    digest: str
    blob: str
    broken: str
    principal: str
    mine: str
    files: Sequence[types_pb2.File]

    @property
    def adapter(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def exact(self) -> str:
        return f"{self.adapter}@{self.digest}"

    @property
    def own(self) -> str:
        return f"{self.mine}/new"


@dataclass(frozen=True)
class Case:
    """A call of `rpc`. owner: what who has the things is answered, a status code's name."""

    rpc: str
    what: str
    ask: Callable[[Aim], Any]
    owner: str = "OK"


def _new_base() -> types_pb2.BaseModel:
    return base_to_pb(base_for(), "hijacked")


def _publish(adapter: str, files: Sequence[types_pb2.File], **fields: Any) -> catalog_pb2.CreateVersionRequest:
    return catalog_pb2.CreateVersionRequest(adapter=adapter, files=files, base_model=BASE_NAME, **fields)


def _stolen(aim: Aim) -> list[types_pb2.File]:
    weights = [f for f in aim.files if f.name.endswith(".safetensors")]
    others = [f for f in aim.files if not f.name.endswith(".safetensors")]
    return [*others, *(types_pb2.File(name=f.name, digest=aim.blob, size_bytes=f.size_bytes) for f in weights)]


def _recipe(digest: str) -> types_pb2.Recipe:
    source = types_pb2.RecipeSource(digest=digest, weight=1)
    return types_pb2.Recipe(method="linear", parameters_json="{}", sources=[source], tool="t")


def _upload(namespace: str, digest: str) -> list[blob_pb2.UploadRequest]:
    header = blob_pb2.UploadHeader(digest=digest, size_bytes=10, namespace=namespace)
    return [blob_pb2.UploadRequest(header=header), blob_pb2.UploadRequest(finish=blob_pb2.UploadFinish())]


def _self_made(aim: Aim) -> access_pb2.CreatePrincipalRequest:
    scope = access_pb2.Scope(namespace=aim.namespace, permission=access_pb2.PERMISSION_ADMIN)
    return access_pb2.CreatePrincipalRequest(principal=access_pb2.Principal(name="intruder", scopes=[scope]))


c, b, a, p = catalog_pb2, blob_pb2, admin_pb2, access_pb2
DENIED = "PERMISSION_DENIED"
FIRST = "0"
CASES: tuple[Case, ...] = (
    Case("RegisterBaseModel", "", lambda _: c.RegisterBaseModelRequest(base_model=_new_base()), DENIED),
    Case("GetBaseModel", "", lambda _: c.GetBaseModelRequest(base_model=BASE_NAME)),
    Case("ListBaseModels", "", lambda _: c.ListBaseModelsRequest()),
    Case(
        "UpdateBaseModel",
        "",
        lambda _: c.UpdateBaseModelRequest(
            base_model=types_pb2.BaseModel(name=BASE_NAME, carry_over=types_pb2.CARRY_OVER_ALLOW),
            update_mask=FieldMask(paths=["carry_over"]),
        ),
        DENIED,
    ),
    Case("GetVersion", "by digest", lambda t: c.GetVersionRequest(adapter=t.exact)),
    Case(
        "GetVersion",
        "by digest, in a namespace of one's own",
        lambda t: c.GetVersionRequest(adapter=f"{t.mine}/{t.name}@{t.digest}"),
    ),
    Case("ListVersions", "", lambda t: c.ListVersionsRequest(adapter=t.adapter)),
    Case("GetAdapter", "", lambda t: c.GetAdapterRequest(adapter=t.adapter)),
    Case("ListAdapters", "there", lambda t: c.ListAdaptersRequest(namespace=t.namespace)),
    Case("ListAdapters", "everywhere", lambda _: c.ListAdaptersRequest()),
    Case("ListAdapters", "by parent", lambda t: c.ListAdaptersRequest(filter=f"parent = {t.digest}")),
    Case("ListAliases", "", lambda t: c.ListAliasesRequest(adapter=t.adapter)),
    Case("GetLineage", "", lambda t: c.GetLineageRequest(adapter=t.adapter)),
    Case("ListVerdicts", "", lambda t: c.ListVerdictsRequest(adapter=t.adapter)),
    Case("ListLeases", "", lambda t: c.ListLeasesRequest(adapter=t.adapter)),
    Case("Resolve", "by name", lambda t: c.ResolveRequest(adapter=t.adapter)),
    Case("Resolve", "by alias", lambda t: c.ResolveRequest(adapter=f"{t.adapter}:prod")),
    Case("CheckCompatibility", "", lambda t: c.CheckCompatibilityRequest(adapter=t.exact, base_model=BASE_NAME)),
    Case("Watch", "there", lambda t: c.WatchRequest(namespace=t.namespace, resume_token=FIRST)),
    Case("Watch", "everywhere", lambda _: c.WatchRequest(resume_token=FIRST)),
    Case("RenewLeases", "of their version", lambda t: c.RenewLeasesRequest(holder="me", adapters=[t.exact])),
    Case("RenewLeases", "of nothing, as their holder", lambda _: c.RenewLeasesRequest(holder=HOLDER)),
    Case("FindMissing", "there", lambda t: b.FindMissingRequest(namespace=t.namespace, digests=[t.blob])),
    Case("FindMissing", "for oneself", lambda t: b.FindMissingRequest(namespace=t.mine, digests=[t.blob])),
    Case("QueryUpload", "there", lambda t: b.QueryUploadRequest(namespace=t.namespace, digest=t.broken)),
    Case("QueryUpload", "a broken one, for oneself", lambda t: b.QueryUploadRequest(namespace=t.mine, digest=t.broken)),
    Case("QueryUpload", "a whole one, for oneself", lambda t: b.QueryUploadRequest(namespace=t.mine, digest=t.blob)),
    Case("Upload", "there", lambda t: _upload(t.namespace, t.broken), "FAILED_PRECONDITION"),
    Case("Upload", "of their blob, without its bytes", lambda t: _upload(t.mine, t.blob)),
    Case("Read", "", lambda t: b.ReadRequest(digest=t.blob)),
    Case("GetNamespace", "", lambda t: a.GetNamespaceRequest(namespace=t.namespace)),
    Case("ListNamespaces", "", lambda _: a.ListNamespacesRequest()),
    Case(
        "UpdateNamespace",
        "",
        lambda t: a.UpdateNamespaceRequest(
            namespace=a.Namespace(name=t.namespace), update_mask=FieldMask(paths=["max_bytes"])
        ),
        DENIED,
    ),
    Case("CollectGarbage", "", lambda _: a.CollectGarbageRequest(), DENIED),
    Case("Fsck", "", lambda _: a.FsckRequest(), DENIED),
    Case("ListAuditEntries", "there", lambda t: a.ListAuditEntriesRequest(namespace=t.namespace)),
    Case("ListAuditEntries", "everywhere", lambda _: a.ListAuditEntriesRequest()),
    Case("ListAuditEntries", "by digest", lambda t: a.ListAuditEntriesRequest(digest=t.digest)),
    Case("CreatePrincipal", "", _self_made, DENIED),
    Case("ListPrincipals", "", lambda _: p.ListPrincipalsRequest(), DENIED),
    Case("RevokePrincipal", "", lambda t: p.RevokePrincipalRequest(name=t.principal), DENIED),
    Case("WhoAmI", "", lambda _: p.WhoAmIRequest()),
    # What changes something comes last, what deletes last of all.
    Case("CreateVersion", "there", lambda t: _publish(t.adapter, t.files)),
    Case("CreateVersion", "of their blob, in one's own", lambda t: _publish(t.own, _stolen(t))),
    Case("CreateVersion", "with their version as parent", lambda t: _publish(t.own, t.files, parents=[t.exact])),
    Case("CreateVersion", "with their digest as source", lambda t: _publish(t.own, t.files, recipe=_recipe(t.digest))),
    Case(
        "UpdateAdapter",
        "",
        lambda t: c.UpdateAdapterRequest(
            adapter=types_pb2.Adapter(namespace=t.namespace, name=t.name, description="x"),
            update_mask=FieldMask(paths=["description"]),
        ),
    ),
    Case(
        "UpdateAdapter",
        "retention",
        lambda t: c.UpdateAdapterRequest(
            adapter=types_pb2.Adapter(namespace=t.namespace, name=t.name, keep_last=100),
            update_mask=FieldMask(paths=["keep_last"]),
        ),
    ),
    Case("RollbackAlias", "", lambda t: c.RollbackAliasRequest(adapter=t.adapter, alias="prod")),
    Case("SetAlias", "there", lambda t: c.SetAliasRequest(adapter=t.exact, alias="theirs")),
    Case(
        "SetAlias",
        "to their version, in one's own",
        lambda t: c.SetAliasRequest(adapter=f"{t.mine}/{t.name}@{t.digest}", alias="got"),
    ),
    Case("DeleteAlias", "", lambda t: c.DeleteAliasRequest(adapter=t.adapter, alias="prod")),
    Case("YankVersion", "", lambda t: c.YankVersionRequest(adapter=t.exact, reason="mine now")),
    Case("DeleteVersion", "", lambda t: c.DeleteVersionRequest(adapter=t.exact, force=True)),
    Case("DeleteAdapter", "", lambda t: c.DeleteAdapterRequest(adapter=t.adapter, force=True)),
)
