"""Who gets what out of every rpc: the owner of the things, another tenant, and whoever proves nothing.

Generated from the protos: an rpc without a case fails. Another tenant must be answered as if what it
asks for did not exist, word by word; the table is printed (`pytest -rP`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString
from google.protobuf.timestamp_pb2 import Timestamp

from adapter_registry.rpc.rules import SERVICES
from lorry.format.digest import digest_of
from lorry.rpc.status import from_rpc_error
from tests.support.access_cases import CASES, Aim, Case
from tests.support.adapters import WEIGHTS
from tests.support.certificates import Authority
from tests.support.tenants import (
    BROKEN,
    EXPIRED,
    HOLDER,
    OPERATOR,
    OURS,
    REVOKED,
    THEIRS,
    World,
    furnish,
    guarded_registry,
)

METHODS: dict[str, MethodDescriptor] = {m.name: m for service in SERVICES for m in service.methods}
NOBODY = "none"
DEADLINE = 30.0


@dataclass(frozen=True)
class Outcome:
    """code: the status. told: answer or error, times left out."""

    code: str
    told: str


def test_every_rpc_has_a_case() -> None:
    assert {case.rpc for case in CASES} == set(METHODS)


async def call(world: World, who: str, case: Case, aim: Aim) -> Outcome:
    """Make the call over TLS with that one's token."""
    try:
        answers = [answer async for answer in _answers(world.channel(who), METHODS[case.rpc], case.ask(aim))]
    except grpc.RpcError as error:
        refused = from_rpc_error(error)
        return Outcome(refused.code, f"{refused.reason} {refused.message} {sorted(refused.metadata.items())}")
    return Outcome("OK", "\n".join(map(_told, answers)))


async def _answers(channel: grpc.aio.Channel, method: MethodDescriptor, request: Any) -> AsyncIterator[Message]:
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    answer_type = message_factory.GetMessageClass(method.output_type)
    asked = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer_type.FromString,
    )(_each(request) if method.client_streaming else request, timeout=DEADLINE)
    if not method.server_streaming:
        yield await asked
        return
    async for answer in asked:
        yield answer
        # A watch has no end of its own: the last event of the world is the one that `theirs` published.
        if method.name == "Watch" and answer.namespace in {THEIRS, OURS} and _is_last(answer):
            asked.cancel()
            return


def _is_last(event: Any) -> bool:
    return bool(
        event.namespace == THEIRS or (event.WhichOneof("event") == "alias_moved" and event.alias_moved.revision == 2)
    )


async def _each(messages: list[Message]) -> AsyncIterator[Message]:
    for message in messages:
        yield message


def _told(message: Any) -> str:
    """The message as text, without what differs from call to call."""
    if not isinstance(message, Timestamp):
        for field, _value in message.ListFields():
            if field.message_type is not None and field.message_type.full_name == Timestamp.DESCRIPTOR.full_name:
                message.ClearField(field.name)
    return MessageToString(message, as_one_line=True)


def _secrets(world: World) -> set[str]:
    """Words that only `ours` knows."""
    versions = {version.digest for version in world.held}
    blobs = {f.digest for version in world.held for f in version.manifest.files if f.name == WEIGHTS}
    return {f'"{OURS}"', f"{OURS}/", "secret", HOLDER, digest_of(BROKEN), *versions, *blobs}


def aims(world: World) -> tuple[Aim, Aim]:
    """The things of `ours`, and things that nobody has, of the same shape; asked for by `theirs`."""
    held = world.held[0]
    weights = next(f.digest for f in held.manifest.files if f.name == WEIGHTS)
    asker = {"mine": THEIRS, "files": world.mine[THEIRS]}
    real = Aim(OURS, "secret", held.digest, weights, digest_of(BROKEN), OURS, **asker)
    ghost = Aim(
        "nobodys", "nothing", *(digest_of(word) for word in (b"version", b"blob", b"broken")), "nobody", **asker
    )
    return real, ghost


def _blurred(text: str, aim: Aim) -> str:
    """The text with the names of the aim left out."""
    for word in (aim.exact, aim.adapter, aim.digest, aim.blob, aim.broken, aim.namespace, aim.name, aim.principal):
        text = re.sub(rf"(?<![\w]){re.escape(word)}(?![\w])", "_", text)
    return text


async def _leaks(world: World, case: Case) -> list[str]:
    """How the answer to another tenant betrays what `ours` has."""
    real, ghost = aims(world)
    about_ours, about_nothing = [await call(world, THEIRS, case, aim) for aim in (real, ghost)]
    found = []
    if about_ours.code != about_nothing.code or _blurred(about_ours.told, real) != _blurred(about_nothing.told, ghost):
        found.append(f"{about_ours} unlike {about_nothing}")
    if about_ours.code == "OK":
        asked = str(case.ask(real))
        found += [word for word in _secrets(world) if word in about_ours.told and word.strip('"/') not in asked]
    return found


async def _state(world: World) -> str:
    """All that `ours` has, as the operator sees it."""
    async with world.client(OPERATOR) as operator, world.raw(OPERATOR) as raw:
        seen: list[Any] = [await operator.adapter("ours/secret"), await operator.resolve("ours/secret:prod")]
        seen += [version async for version in operator.versions("ours/secret")]
        seen += [alias async for alias in operator.aliases("ours/secret")]
        seen += (await raw.call("ListLeases", adapter="ours/secret")).leases
        seen += [principal async for principal in operator.principals()]
        pieces = [bytes(piece.data) for f in world.held[0].manifest.files for piece in await raw.get(f.digest)]
        held = hashlib.sha256(b"".join(pieces)).hexdigest()
        broken = [await operator.query_upload(digest_of(BROKEN), namespace=OURS)]
    for each in seen:
        if hasattr(each, "last_seen_time"):
            each.ClearField("last_seen_time")
    return "\n".join([*map(str, seen), held, *map(str, broken)])


@pytest.fixture(params=["sqlite+files", pytest.param("postgres+s3", marks=pytest.mark.long)])
def places(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a registry's database and blobs."""
    if request.param == "sqlite+files":
        return {}
    s3 = request.getfixturevalue("s3_settings")
    return {
        "database_url": request.getfixturevalue("postgres_url"),
        "blobs": f"s3://{request.getfixturevalue('s3_bucket')}/prefix",
        "s3_endpoint": s3.endpoint,
        "s3_access_key_id": s3.access_key_id,
        "s3_secret_access_key": s3.secret_access_key,
    }


async def test_nobody_gets_what_is_not_theirs(places: dict[str, Any], tmp_path: Path) -> None:
    async with guarded_registry(tmp_path / "registry", Authority(tmp_path), **places) as world:
        await furnish(world, tmp_path)
        before = await _state(world)
        leaks = {f"{case.rpc} {case.what}": await _leaks(world, case) for case in CASES}
        refused = {
            who: [await call(world, who, case, aims(world)[0]) for case in CASES] for who in (NOBODY, EXPIRED, REVOKED)
        }
        assert await _state(world) == before
        others = [await call(world, THEIRS, case, aims(world)[0]) for case in CASES]
        owners = [await call(world, OURS, case, _as_owner(world)) for case in CASES]
    _print(owners, others, refused)
    assert {what: found for what, found in leaks.items() if found} == {}
    assert {outcome.code for row in refused.values() for outcome in row} == {"UNAUTHENTICATED"}
    assert [(c.rpc, c.what, o) for c, o in zip(CASES, owners, strict=True) if o.code != c.owner] == []


def _as_owner(world: World) -> Aim:
    return replace(aims(world)[0], mine=OURS, files=world.mine[OURS])


def _print(owners: list[Outcome], others: list[Outcome], refused: dict[str, list[Outcome]]) -> None:
    print(f"{'rpc':20}{'what':40}{'own':22}{'another tenant':22}{'none':18}{'expired':18}revoked")  # noqa: T201 - shown by -rP
    for row in zip(CASES, owners, others, *refused.values(), strict=True):
        case, *outcomes = row
        codes = [outcome.code for outcome in outcomes]
        print(f"{case.rpc:20}{case.what:40}{codes[0]:22}{codes[1]:22}{codes[2]:18}{codes[3]:18}{codes[4]}")  # noqa: T201
