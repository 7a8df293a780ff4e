"""Where the suite runs: at the registry that LORRY_CONFORMANCE_TARGET names, or at our own three.

LORRY_TOKEN or LORRY_TOKEN_FILE, LORRY_CA, LORRY_CERT and LORRY_KEY say what to show and trust there, as
they do for the command.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorry.errors import BaseNotFound, PermissionDenied
from lorry.rpc.convert import base_to_pb
from lorry.rpc.credentials import Credentials
from lorry.v1 import access_pb2
from tests.conformance.guest import BASE, BASE_FACTS, Guest

TARGET = os.environ.get("LORRY_CONFORMANCE_TARGET", "")
WHERE = [
    pytest.param("sqlite+files"),
    # The stores' own suites run on both always; here the second pair would say the same over a socket.
    pytest.param("postgres+s3", marks=[pytest.mark.postgres, pytest.mark.s3, pytest.mark.long]),
    pytest.param("access control", marks=pytest.mark.long),  # tests/registry/test_access_matrix.py asks more
]
EVERYWHERE = "*"


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory, postgres_server: Any, s3_settings: Any) -> Iterator[Any]:
    from tests.conformance.houses import street  # the registry itself, which a stranger need not have

    with street(tmp_path_factory.mktemp("houses"), postgres_server, s3_settings) as opened:
        yield opened


@pytest.fixture(params=[TARGET] if TARGET else WHERE)
def door(request: pytest.FixtureRequest) -> tuple[str, Credentials]:
    if TARGET:
        return TARGET, _credentials()
    found: tuple[str, Credentials] = request.getfixturevalue("street").door(request.param)
    return found


def _credentials() -> Credentials:
    given: Credentials = {}
    path = os.environ.get("LORRY_TOKEN_FILE")
    token = Path(path).read_text(encoding="utf-8").strip() if path else os.environ.get("LORRY_TOKEN")
    if token:
        given["token"] = token
    if root := os.environ.get("LORRY_CA"):
        given["root_certificates"] = Path(root)
    if (certificate := os.environ.get("LORRY_CERT")) and (key := os.environ.get("LORRY_KEY")):
        given["certificate"] = (Path(certificate), Path(key))
    return given


@pytest.fixture
async def permission(guest_of: Guest) -> int:
    """What the guest may do in every namespace, as a Permission."""
    scopes = (await guest_of.call("WhoAmI")).principal.scopes
    return max((scope.permission for scope in scopes if scope.namespace == EVERYWHERE), default=0)


@pytest.fixture
async def guest_of(door: tuple[str, Credentials]) -> AsyncIterator[Guest]:
    target, credentials = door
    guest = Guest(target, **credentials)
    yield guest
    await guest.close()


@pytest.fixture
async def guest(guest_of: Guest, permission: int) -> AsyncIterator[Guest]:
    """Somebody who may publish; what it published goes again where it may delete."""
    if permission < access_pb2.PERMISSION_PUSH:
        pytest.skip("needs a token that may push to any namespace (*=push)")
    await _furnish(guest_of)
    yield guest_of
    if permission >= access_pb2.PERMISSION_ADMIN:
        await guest_of.clean()


@pytest.fixture
def operator(guest: Guest, permission: int) -> Guest:
    """The guest, who may do everything."""
    if permission < access_pb2.PERMISSION_ADMIN:
        pytest.skip("needs a token that administers everything (*=admin)")
    return guest


@pytest.fixture
async def other(guest: Guest, permission: int) -> AsyncIterator[Guest]:
    """The same caller in another namespace."""
    other = Guest(guest.target, **guest.credentials)
    yield other
    if permission >= access_pb2.PERMISSION_ADMIN:
        await other.clean()
    await other.close()


async def _furnish(guest: Guest) -> None:
    try:
        await guest.call("RegisterBaseModel", base_model=base_to_pb(BASE_FACTS, BASE))
    except PermissionDenied:
        try:
            await guest.call("GetBaseModel", base_model=BASE)
        except BaseNotFound:
            pytest.skip(f"needs a token that may register bases (*=admin), or somebody who registered {BASE!r} before")
