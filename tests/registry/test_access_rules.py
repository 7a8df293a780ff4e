"""What each rpc needs: nothing without a rule is served, and a rule reads the namespace that the call will use."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_registry.domain.acting import EVERYWHERE, Permission, Rights
from adapter_registry.rpc import rules
from adapter_registry.rpc.access_guard import AccessGuard
from adapter_registry.rpc.rules import RULES, unruled
from adapter_registry.service.access import Access
from adapter_registry.service.pool import Pools
from lorry.errors import InvalidName, InvalidReference, PermissionDenied
from lorry.rpc.pieces import Piece
from lorry.v1 import blob_pb2, catalog_pb2, types_pb2
from tests.suites.catalog_values import digest

READ, PUSH, ADMIN = Permission.READ, Permission.PUSH, Permission.ADMIN
CATALOG = "/lorry.v1.CatalogService/"
BLOBS = "/lorry.v1.BlobService/"


def test_every_rpc_has_a_rule_and_every_rule_an_rpc() -> None:
    assert unruled(RULES) == []
    methods = {f"/{service.full_name}/{method.name}" for service in rules.SERVICES for method in service.methods}
    assert set(RULES) == methods


def test_a_server_with_an_rpc_without_a_rule_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, f"{CATALOG}Resolve")
    pools = Pools.of(queries=1, writes=1, transfers=1)
    store: Any = None  # never asked: nobody calls
    with pytest.raises(RuntimeError, match="CatalogService/Resolve"):
        AccessGuard(Access(store, pools, required=True))
    pools.close()


@pytest.mark.parametrize(
    ("method", "request_", "needs"),
    [
        ("Resolve", catalog_pb2.ResolveRequest(adapter="cat"), [(READ, "default")]),
        ("Resolve", catalog_pb2.ResolveRequest(adapter="team/cat:prod"), [(READ, "team")]),
        ("DeleteVersion", catalog_pb2.DeleteVersionRequest(adapter=f"team/cat@{digest(1)}"), [(ADMIN, "team")]),
        ("ListAdapters", catalog_pb2.ListAdaptersRequest(namespace="team"), [(READ, "team")]),
        ("ListAdapters", catalog_pb2.ListAdaptersRequest(), []),
        (
            "CreateVersion",
            catalog_pb2.CreateVersionRequest(adapter="a/x", parents=["b/y@1", "z"]),
            [(PUSH, "a"), (READ, "b"), (READ, "default")],
        ),
        ("UpdateAdapter", catalog_pb2.UpdateAdapterRequest(update_mask={"paths": ["labels"]}), [(PUSH, "default")]),
        (
            "UpdateAdapter",
            catalog_pb2.UpdateAdapterRequest(
                adapter=types_pb2.Adapter(namespace="team"), update_mask={"paths": ["labels", "keep_last"]}
            ),
            [(ADMIN, "team")],
        ),
        ("RenewLeases", catalog_pb2.RenewLeasesRequest(adapters=["a/x", "b/y", "a/z"]), [(READ, "a"), (READ, "b")]),
        ("CheckCompatibility", catalog_pb2.CheckCompatibilityRequest(adapter="team/cat"), [(READ, "team")]),
        ("CheckCompatibility", catalog_pb2.CheckCompatibilityRequest(outline={"weights_size_bytes": 1}), []),
        ("RegisterBaseModel", catalog_pb2.RegisterBaseModelRequest(), [(ADMIN, EVERYWHERE)]),
    ],
)
def test_a_rule_names_where_the_call_goes(method: str, request_: Any, needs: list[tuple[Permission, str]]) -> None:
    assert list(RULES[f"{CATALOG}{method}"](request_)) == needs


def test_an_upload_is_judged_by_its_header() -> None:
    rule = RULES[f"{BLOBS}Upload"]
    header = blob_pb2.UploadRequest(header=blob_pb2.UploadHeader(namespace="team"))
    assert list(rule(header)) == [(PUSH, "team")]
    assert list(rule(blob_pb2.UploadRequest(header=blob_pb2.UploadHeader()))) == [(PUSH, "default")]
    assert list(rule(Piece(0, memoryview(b"no header")))) == []


def test_what_names_nothing_is_refused_by_name() -> None:
    with pytest.raises(InvalidReference):
        RULES[f"{CATALOG}Resolve"](catalog_pb2.ResolveRequest(adapter="a/b@"))
    with pytest.raises(InvalidName):
        RULES[f"{BLOBS}FindMissing"](blob_pb2.FindMissingRequest(namespace="*"))


def test_each_permission_allows_what_the_smaller_ones_do() -> None:
    rights = Rights({"team": PUSH, EVERYWHERE: READ})
    assert [rights.may(p, "team") for p in (READ, PUSH, ADMIN)] == [True, True, False]
    assert [rights.may(p, "other") for p in (READ, PUSH)] == [True, False]
    assert (rights.where(READ), rights.where(PUSH), rights.where(ADMIN)) == (None, {"team"}, frozenset())
    with pytest.raises(PermissionDenied, match="permission admin in all namespaces"):
        rights.require(ADMIN, EVERYWHERE)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ({"a": ADMIN}, {"*": READ}, {"a": READ}),
        ({"a": READ, "b": PUSH}, {"b": ADMIN, "c": ADMIN}, {"b": PUSH}),
        ({"*": PUSH, "a": ADMIN}, {"*": READ, "a": PUSH}, {"*": READ, "a": PUSH}),
        ({"*": ADMIN}, {"*": ADMIN}, {"*": ADMIN}),
        ({"a": ADMIN}, {}, {}),
    ],
)
def test_two_together_may_do_what_both_may(
    one: dict[str, Permission], other: dict[str, Permission], both: dict[str, Permission]
) -> None:
    assert Rights(one).both(Rights(other)).scopes == both
    assert Rights(other).both(Rights(one)).scopes == both
