"""Who is let in, as whom, and what is written down of it; what each may do is the matrix's."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from lorry import RegistryClient
from lorry.errors import (
    InvalidInput,
    InvalidName,
    LorryError,
    PermissionDenied,
    PrincipalConflict,
    PrincipalNotFound,
    Unauthenticated,
)
from lorry.rpc.calls import translated
from lorry.rpc.credentials import on_behalf_of
from lorry.v1 import access_pb2, admin_pb2, catalog_pb2
from tests.support.access_cases import CASES
from tests.support.adapters import write_adapter
from tests.support.certificates import Authority
from tests.support.registry import DEADLINE, running_registry, until
from tests.support.tenants import EXPIRED, OPERATOR, OURS, REVOKED, THEIRS, World, furnish, guarded_registry


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with guarded_registry(tmp_path / "registry", Authority(tmp_path)) as world:
        yield world


async def delegate(world: World, *, scopes: dict[str, str]) -> RegistryClient:
    """A client of a worker that may act for its callers."""
    async with world.client(OPERATOR) as operator:
        made = await operator.create_token("gpu-1", scopes, delegate=True)
    return RegistryClient(world.target, token=made.token, root_certificates=world.root)


def scopes_of(principal: access_pb2.Principal) -> dict[str, int]:
    return {scope.namespace: scope.permission for scope in principal.scopes}


async def test_a_token_says_who_calls_and_is_kept_as_a_hash_alone(world: World, tmp_path: Path) -> None:
    async with world.client(OPERATOR) as operator:
        made = await operator.create_token("ann", {"team": "push", "*": "read"}, expires=_in(days=9))
        assert made.token.startswith("lorry_")
        assert len(made.token) == len("lorry_") + 43
        with pytest.raises(PrincipalConflict):
            await operator.create_token("ann", {"team": "read"})
    async with RegistryClient(world.target, token=made.token, root_certificates=world.root) as ann:
        me = await ann.whoami()
    assert (me.name, me.anonymous, me.delegate, me.certificate) == ("ann", False, False, "")
    assert scopes_of(me) == {"team": access_pb2.PERMISSION_PUSH, "*": access_pb2.PERMISSION_READ}
    with sqlite3.connect(tmp_path / "registry" / "catalog.db") as database:
        assert made.token not in "".join(database.iterdump())
    database.close()


def _in(**span: float) -> datetime:
    return datetime.now(UTC) + timedelta(**span)


async def is_refused(client: RegistryClient) -> bool:
    """Also by what the registry remembers of callers for a second, past which `whoami` looks."""
    try:
        await client.find_missing(["sha256:" + "0" * 64], namespace="ours")
    except Unauthenticated:
        return True
    return False


async def test_a_revoked_token_ends_also_where_it_was_just_used(world: World) -> None:
    async with world.client(OPERATOR) as operator, world.client(OURS) as ours:
        await ours.whoami()
        revoked = await operator.revoke_principal(OURS)
        assert revoked.HasField("revoke_time")
        assert await operator.revoke_principal(OURS) == revoked
        with pytest.raises(PrincipalNotFound):
            await operator.revoke_principal("nobody")
        await until(partial(is_refused, ours))


async def test_a_watch_ends_with_its_callers_rights(world: World, tmp_path: Path) -> None:
    await furnish(world, tmp_path)
    async with (
        world.client(OPERATOR) as operator,
        world.client(OURS) as ours,
        aclosing(await ours.listen(namespace="ours")) as events,
    ):
        await operator.set_alias("ours/secret@1", "before")
        assert (await anext(events)).alias_moved.alias == "before"
        await operator.revoke_principal(OURS)
        await until(partial(is_refused, ours))
        await operator.set_alias("ours/secret@1", "later")
        with pytest.raises(Unauthenticated):
            await anext(events)


async def test_whoever_proves_nothing_is_refused_in_the_same_words(world: World) -> None:
    said = set()
    for token in ("lorry_made-up", "nonsense", world.tokens[EXPIRED], world.tokens[REVOKED]):
        async with RegistryClient(world.target, token=token, root_certificates=world.root) as stranger:
            with pytest.raises(Unauthenticated) as caught:
                await stranger.whoami()
            said.add(caught.value.message)
    assert said == {"expected credentials that are known, not expired and not revoked, got others"}


async def test_a_registry_without_access_control_knows_everybody_as_anonymous(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as target, RegistryClient(target, token="x") as client:  # noqa: S106
        me = await client.whoami()
        assert (me.name, me.anonymous, scopes_of(me)) == ("anonymous", True, {"*": access_pb2.PERMISSION_ADMIN})
        with on_behalf_of("Bearer y"):
            assert (await client.whoami()).anonymous
        await client.create_token("ann", {"team": "read"})
        assert [(e.principal, e.name) async for e in client.audit_entries()] == [("anonymous", "ann")]


async def test_a_worker_may_do_what_both_it_and_its_caller_may(world: World, tmp_path: Path) -> None:
    await furnish(world, tmp_path)
    async with await delegate(world, scopes={"*": "read"}) as worker:
        assert (await worker.resolve("ours/secret")).number == 2
        with on_behalf_of(f"Bearer {world.tokens[OURS]}"):
            assert (await worker.resolve("ours/secret")).number == 2
            assert scopes_of(await worker.whoami()) == {"ours": access_pb2.PERMISSION_ADMIN}
            with pytest.raises(PermissionDenied):
                await worker.set_alias("ours/secret@1", "prod")
            async with aclosing(worker.watch(resume_token="0", namespace="ours")) as events:  # noqa: S106 - no password
                assert (await anext(events)).namespace == "ours"
        with on_behalf_of(f"Bearer {world.tokens[THEIRS]}"):
            with pytest.raises(PermissionDenied):
                await worker.resolve("ours/secret")
            with pytest.raises(PermissionDenied):
                await worker.upload(write_adapter(tmp_path / "x") / "adapter_config.json", "sha256:" + "0" * 64)
        with on_behalf_of("Bearer made-up"), pytest.raises(Unauthenticated):
            await worker.resolve("ours/secret")


async def test_nobody_but_a_delegate_acts_for_others(world: World) -> None:
    async with world.client(THEIRS) as theirs:
        with on_behalf_of(f"Bearer {world.tokens[OURS]}"), pytest.raises(PermissionDenied):
            await theirs.whoami()


async def test_a_client_certificate_stands_for_its_principal(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    gpu = authority.client("gpu-1.example").files
    stranger = authority.client("stranger").files
    async with guarded_registry(tmp_path / "registry", authority, tls_client_ca=authority.root) as world:
        trust = {"root_certificates": world.root}
        async with RegistryClient(
            world.target, token=world.tokens[OPERATOR], certificate=stranger, **trust
        ) as operator:
            granted = await operator.grant_certificate("gpu-1", "gpu-1.example", {"*": "read"}, delegate=True)
            assert (granted.certificate, granted.delegate) == ("gpu-1.example", True)
            await operator.grant_certificate("laptop", "laptop.example", {"team": "push"})
            assert (await operator.whoami()).name == OPERATOR
        async with RegistryClient(world.target, certificate=gpu, **trust) as worker:
            assert (await worker.whoami()).name == "gpu-1"
            with on_behalf_of("Certificate laptop.example"):
                assert (await worker.whoami()).name == "laptop"
        async with RegistryClient(world.target, certificate=stranger, **trust) as nobody:
            with pytest.raises(Unauthenticated):
                await nobody.whoami()


async def test_when_a_principal_was_last_seen_is_noted_to_the_minute(world: World) -> None:
    async with world.client(OPERATOR) as operator, world.client(OURS) as ours:
        before = datetime.now(UTC).replace(second=0, microsecond=0)
        await ours.whoami()

        async def noted() -> bool:
            return (await _principal(operator, OURS)).HasField("last_seen_time")

        await until(noted)
        seen = (await _principal(operator, OURS)).last_seen_time.ToDatetime(tzinfo=UTC)
        assert before <= seen <= datetime.now(UTC)
        assert (seen.second, seen.microsecond) == (0, 0)
        assert not (await _principal(operator, THEIRS)).HasField("last_seen_time")


async def _principal(operator: RegistryClient, name: str) -> access_pb2.Principal:
    return next(iter([p async for p in operator.principals() if p.name == name]))


SCOPE = access_pb2.Scope(namespace="team", permission=access_pb2.PERMISSION_READ)


IMPOSSIBLE: list[tuple[access_pb2.Principal, type[LorryError], str]] = [
    (access_pb2.Principal(name="anonymous", scopes=[SCOPE]), InvalidName, "audit log"),
    (access_pb2.Principal(name="registry", scopes=[SCOPE]), InvalidName, "audit log"),
    (access_pb2.Principal(name="Ann", scopes=[SCOPE]), InvalidName, "name of a principal"),
    (access_pb2.Principal(name="ann"), InvalidInput, "scopes: expected 1 to 1000, got 0"),
    (access_pb2.Principal(name="ann", scopes=[access_pb2.Scope(namespace="a")]), InvalidInput, "READ, PUSH, ADMIN"),
    (
        access_pb2.Principal(name="ann", scopes=[access_pb2.Scope(namespace="**", permission=1)]),
        InvalidName,
        "'**'",
    ),
    (access_pb2.Principal(name="ann", scopes=[SCOPE], certificate="ü"), InvalidInput, "printable characters"),
    (access_pb2.Principal(name="ann", scopes=[SCOPE], expire_time={"seconds": 1}), InvalidInput, "to come"),
    (access_pb2.Principal(name="ann", scopes=[SCOPE], expire_time={"seconds": 1 << 50}), InvalidInput, "year"),
]


async def test_a_principal_that_cannot_be_is_refused(world: World) -> None:
    async with world.client(OPERATOR) as operator:
        for principal, error, said in IMPOSSIBLE:
            request = access_pb2.CreatePrincipalRequest(principal=principal)
            with pytest.raises(error, match=re.escape(said)), translated():
                await operator._access.CreatePrincipal(request, timeout=DEADLINE)
        assert {p.name async for p in operator.principals()} == set(world.tokens)


async def test_the_log_names_the_caller_the_worker_and_the_request(world: World, tmp_path: Path) -> None:
    await furnish(world, tmp_path)
    async with await delegate(world, scopes={"*": "push"}) as worker, world.client(OPERATOR) as operator:
        with on_behalf_of(f"Bearer {world.tokens[OURS]}"):
            await worker.set_alias("ours/secret@1", "canary")
        for number, request_id in ((2, "trace/1"), (1, "with spaces")):
            request = catalog_pb2.SetAliasRequest(adapter=f"ours/secret@{number}", alias="canary")
            await operator._catalog.SetAlias(request, metadata=(("x-request-id", request_id),), timeout=DEADLINE)
        entries = [e async for e in operator.audit_entries(action="SetAlias", namespace="ours")]
    assert [(e.principal, e.via) for e in entries] == [(OPERATOR, ""), (OPERATOR, ""), (OURS, "gpu-1")]
    assert entries[1].request_id == "trace/1"
    assert all(e.request_id for e in entries)
    assert " " not in entries[0].request_id
    assert entries[2].digest == world.held[0].digest


async def test_what_was_refused_is_logged_and_not_in_the_table(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.client(THEIRS) as theirs, world.client(OPERATOR) as operator:
        with caplog.at_level(logging.WARNING), pytest.raises(PermissionDenied):
            await theirs.delete_adapter("ours/secret")
        assert [e.action async for e in operator.audit_entries(principal=THEIRS)] == []
    # The caller may have its answer before the log has its line.
    await until(lambda: asyncio.sleep(0, "refused" in caplog.text))
    (record,) = [r for r in caplog.records if "refused" in r.message]
    told = (record.reason, record.method, record.principal)
    assert told == ("PERMISSION_DENIED", "lorry.v1.CatalogService/DeleteAdapter", THEIRS)
    assert world.tokens[THEIRS] not in caplog.text


async def test_who_administers_nothing_reads_no_log(world: World) -> None:
    async with world.client(OPERATOR) as operator:
        token = (await operator.create_token("reader", {"*": "push"})).token
    async with RegistryClient(world.target, token=token, root_certificates=world.root) as reader:
        with pytest.raises(PermissionDenied):
            _ = [e async for e in reader.audit_entries()]


# Every rpc is in one of these two: what changes something leaves an entry.
READS = {
    "GetBaseModel",
    "ListBaseModels",
    "GetVersion",
    "ListVersions",
    "GetAdapter",
    "ListAdapters",
    "ListAliases",
    "GetLineage",
    "ListVerdicts",
    "ListLeases",
    "Resolve",
    "CheckCompatibility",
    "Watch",
    "FindMissing",
    "QueryUpload",
    "Read",
    "GetNamespace",
    "ListNamespaces",
    "ListAuditEntries",
    "ListPrincipals",
    "WhoAmI",
}
# A heartbeat changes nothing that anybody would ask about; what upkeep finds is its own tests' business.
UNWRITTEN = {"RenewLeases", "CollectGarbage", "Fsck"}


async def test_whatever_changes_something_leaves_an_entry(world: World, tmp_path: Path) -> None:
    from tests.registry.test_access_matrix import METHODS, aims, call

    await furnish(world, tmp_path)
    for case in CASES:
        if case.rpc not in READS:
            await call(world, OPERATOR, case, aims(world)[0])
    async with world.client(OPERATOR) as operator:
        entries: list[admin_pb2.AuditEntry] = [e async for e in operator.audit_entries()]
    assert {e.action for e in entries if e.principal != "registry"} == set(METHODS) - READS - UNWRITTEN
