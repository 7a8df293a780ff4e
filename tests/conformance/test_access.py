"""Who may do what: CreatePrincipal, ListPrincipals, RevokePrincipal, WhoAmI, and what they mean elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from lorry.errors import (
    BlobNotFound,
    InvalidInput,
    InvalidName,
    LorryError,
    PermissionDenied,
    PrincipalConflict,
    PrincipalNotFound,
    Unauthenticated,
)
from lorry.format.digest import digest_of
from lorry.v1 import access_pb2
from tests.conformance.guest import Guest, until

READ, PUSH = access_pb2.PERMISSION_READ, access_pb2.PERMISSION_PUSH


def principal(guest: Guest, permission: int = READ, **fields: Any) -> access_pb2.Principal:
    """One that may do this in the guest's namespace."""
    scope = access_pb2.Scope(namespace=guest.namespace, permission=permission)
    return access_pb2.Principal(**{"name": guest.namespace, "scopes": [scope], **fields})


async def create(operator: Guest, permission: int = READ) -> access_pb2.CreatePrincipalResponse:
    made: access_pb2.CreatePrincipalResponse = await operator.call(
        "CreatePrincipal", principal=principal(operator, permission)
    )
    return made


async def revoke(operator: Guest) -> access_pb2.Principal:
    revoked: access_pb2.Principal = (await operator.call("RevokePrincipal", name=operator.namespace)).principal
    return revoked


async def test_a_caller_is_told_who_it_is(guest: Guest) -> None:
    me = (await guest.call("WhoAmI")).principal
    assert me.name
    assert me.scopes


async def test_a_principal_is_made_listed_and_revoked_once(operator: Guest) -> None:
    made = await create(operator)
    try:
        assert made.token.startswith("lorry_")
        with pytest.raises(PrincipalConflict):
            await operator.call("CreatePrincipal", principal=principal(operator))
        listed = {p.name: p async for p in operator.sdk.principals()}
        assert list(listed[operator.namespace].scopes) == list(made.principal.scopes)
    finally:
        revoked = await revoke(operator)
    assert revoked.HasField("revoke_time")
    assert await revoke(operator) == revoked
    with pytest.raises(PrincipalNotFound):
        await operator.call("RevokePrincipal", name=f"{operator.namespace}-nobody")


async def test_the_secret_is_in_no_other_answer(operator: Guest) -> None:
    made = await create(operator)
    await revoke(operator)
    listed = [p async for p in operator.sdk.principals() if p.name == operator.namespace]
    entries = [e async for e in operator.sdk.audit_entries() if e.name == operator.namespace]
    assert {entry.action for entry in entries} == {"CreatePrincipal", "RevokePrincipal"}
    assert made.token not in f"{listed}{entries}"


IMPOSSIBLE: list[tuple[dict[str, Any], type[LorryError]]] = [
    ({"name": "anonymous"}, InvalidName),
    ({"name": "registry"}, InvalidName),
    ({"name": "Ann"}, InvalidName),
    ({"scopes": []}, InvalidInput),
    ({"scopes": [access_pb2.Scope(namespace="a")]}, InvalidInput),
    ({"scopes": [access_pb2.Scope(namespace="**", permission=READ)]}, InvalidName),
    ({"certificate": "ü"}, InvalidInput),
    ({"expire_time": Timestamp(seconds=1)}, InvalidInput),
    ({"expire_time": Timestamp(seconds=1 << 50)}, InvalidInput),
]


async def test_a_principal_that_cannot_be_is_refused(operator: Guest, subtests: pytest.Subtests) -> None:
    for fields, error in IMPOSSIBLE:
        with subtests.test(fields=str(fields)), pytest.raises(error):
            await operator.call("CreatePrincipal", principal=principal(operator, **fields))
    with pytest.raises(PrincipalNotFound):
        await operator.call("RevokePrincipal", name=operator.namespace)


@pytest.fixture
async def guarded(operator: Guest) -> Guest:
    """The operator of a registry that asks who calls."""
    if (await operator.call("WhoAmI")).principal.anonymous:
        pytest.skip("this registry has no access control: everybody may do everything")
    return operator


@asynccontextmanager
async def somebody(operator: Guest, permission: int) -> AsyncIterator[Guest]:
    """A caller with that right in the operator's namespace and none elsewhere; revoked in the end."""
    token = (await create(operator, permission)).token
    caller = Guest(operator.target, **{**operator.credentials, "token": token})
    caller.namespace = operator.namespace
    try:
        yield caller
    finally:
        await caller.close()
        await revoke(operator)


async def refused(call: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await call()
    except Unauthenticated:
        return True
    return False


async def test_whoever_proves_nothing_is_refused(guarded: Guest) -> None:
    for token in ("", "lorry_made-up"):
        stranger = Guest(guarded.target, **{**guarded.credentials, "token": token})
        with pytest.raises(Unauthenticated):
            await stranger.call("WhoAmI")
        with pytest.raises(Unauthenticated):
            await stranger.call("ListAdapters")
        await stranger.close()


async def test_a_reader_reads_and_writes_nothing(guarded: Guest) -> None:
    version = await guarded.publish("pirate")
    weights = version.manifest.files[0]
    async with somebody(guarded, READ) as reader:
        assert (await reader.call("Resolve", adapter="pirate")).version.digest == version.digest
        assert await reader.stream("Read", digest=weights.digest)
        for rpc, fields in (
            ("YankVersion", {"adapter": "pirate@1", "reason": "mine"}),
            ("SetAlias", {"adapter": "pirate@1", "alias": "mine"}),
            ("DeleteVersion", {"adapter": "pirate@1"}),
            ("CreateVersion", {"adapter": "mine", "files": version.manifest.files}),
        ):
            with pytest.raises(PermissionDenied):
                await reader.call(rpc, **fields)
        with pytest.raises(PermissionDenied):
            await reader.call("QueryUpload", digest=weights.digest)
    assert (await guarded.call("Resolve", adapter="pirate")).version == version


async def test_a_pusher_publishes_and_neither_deletes_nor_rules(guarded: Guest) -> None:
    async with somebody(guarded, PUSH) as pusher:
        assert (await pusher.publish("pirate", base_model="")).number == 1
        for rpc, fields in (
            ("DeleteAdapter", {"adapter": "pirate"}),
            ("CollectGarbage", {"dry_run": True}),
            ("ListPrincipals", {}),
            ("CreatePrincipal", {"principal": principal(guarded, name="intruder")}),
            ("ListAuditEntries", {}),
        ):
            with pytest.raises(PermissionDenied):
                await pusher.call(rpc, **fields)
        with pytest.raises(PermissionDenied):
            await pusher.stream("Fsck")


async def test_what_is_elsewhere_does_not_exist(guarded: Guest, other: Guest) -> None:
    secret = await other.publish("secret")
    blob = secret.manifest.files[0].digest
    async with somebody(guarded, PUSH) as tenant:
        hidden, nothing = f"{other.namespace}/secret", f"{other.namespace}/nothing"
        said = set()
        for adapter in (hidden, nothing):
            with pytest.raises(PermissionDenied) as caught:
                await tenant.call("Resolve", adapter=adapter)
            said.add(caught.value.message.replace(adapter, "_"))
        assert len(said) == 1
        for digest in (blob, digest_of(guarded.data(10))):
            with pytest.raises(BlobNotFound):
                await tenant.stream("Read", digest=digest)
            assert list((await tenant.call("FindMissing", digests=[digest])).missing) == [digest]
        listed = [adapter async for adapter in tenant.sdk.adapters()]
        assert {adapter.namespace for adapter in listed} <= {guarded.namespace}


async def test_a_revoked_token_ends_also_where_it_was_just_used(guarded: Guest) -> None:
    async with somebody(guarded, READ) as reader:
        await reader.call("WhoAmI")
        await revoke(guarded)
        await until(lambda: refused(lambda: reader.call("WhoAmI")))
