from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.field_mask_pb2 import FieldMask

from lorry import RegistryClient
from lorry.errors import InvalidFieldMask, InvalidInput, InvalidName, QuotaExceeded, RevisionConflict
from lorry.format.digest import digest_of_file
from lorry.rpc.calls import translated
from lorry.v1 import admin_pb2 as pb
from tests.support.adapters import BASE_NAME, WEIGHTS, base_for, write_adapter
from tests.support.registry import DEADLINE, running_registry


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with running_registry(tmp_path / "registry") as address, RegistryClient(address) as client:
        await client.register_base_model(BASE_NAME, base_for())
        yield client


def a_key() -> str:
    public = Ed25519PrivateKey.generate().public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


async def test_a_namespace_that_nobody_wrote_to_has_no_limits_and_holds_nothing(client: RegistryClient) -> None:
    assert await client.namespace("team") == pb.Namespace(name="team")
    assert [namespace async for namespace in client.namespaces()] == []


async def test_a_namespace_says_what_it_holds(client: RegistryClient, tmp_path: Path) -> None:
    await client.push(write_adapter(tmp_path / "a"), "team/cat")
    await client.push(write_adapter(tmp_path / "b", seed=1), "team/cat")
    await client.push(write_adapter(tmp_path / "a"), "team/twin")
    sizes = {digest_of_file(file): file.stat().st_size for folder in "ab" for file in (tmp_path / folder).iterdir()}
    held = await client.namespace("team")
    assert (held.adapter_count, held.used_versions, held.used_bytes) == (2, 3, sum(sizes.values()))
    assert [namespace async for namespace in client.namespaces()] == [held]


async def test_what_is_not_given_stays(client: RegistryClient) -> None:
    key = a_key()
    await client.update_namespace("team", max_bytes=5, trusted_keys=[key, key])
    changed = await client.update_namespace("team", max_versions=7)
    assert (changed.max_bytes, changed.max_versions, list(changed.trusted_keys), changed.revision) == (5, 7, [key], 2)
    lifted = await client.update_namespace("team", max_bytes=0, max_versions=0, trusted_keys=[])
    assert lifted == pb.Namespace(name="team", revision=3) == await client.namespace("team")


async def test_a_change_of_an_older_state_is_refused(client: RegistryClient) -> None:
    first = await client.update_namespace("team", max_bytes=5)
    await client.update_namespace("team", max_bytes=6, revision=first.revision)
    with pytest.raises(RevisionConflict) as refused:
        await client.update_namespace("team", max_bytes=7, revision=first.revision)
    assert refused.value.metadata["revision"] == "2"
    assert (await client.namespace("team")).max_bytes == 6


@pytest.mark.parametrize(
    "change",
    [
        {"max_bytes": -1},
        {"max_versions": -1},
        {"trusted_keys": ["no key"]},
        {"trusted_keys": [a_key() for _ in range(17)]},
    ],
)
async def test_limits_and_keys_that_cannot_be_are_refused(client: RegistryClient, change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        await client.update_namespace("team", **change)
    assert (await client.namespace("team")).revision == 0


@pytest.mark.parametrize("paths", [[], ["used_bytes"], ["max_bytes", "name"]])
async def test_what_may_not_be_written_is_refused(client: RegistryClient, paths: list[str]) -> None:
    request = pb.UpdateNamespaceRequest(namespace=pb.Namespace(name="team"), update_mask=FieldMask(paths=paths))
    with pytest.raises(InvalidFieldMask), translated():
        await client._admin.UpdateNamespace(request, timeout=DEADLINE)
    with pytest.raises(InvalidName):
        await client.namespace("Not a name")


async def test_they_are_listed_by_name_page_by_page(client: RegistryClient) -> None:
    for name in ("c", "a", "b"):
        await client.update_namespace(name, max_bytes=1)
    first = await client._admin.ListNamespaces(pb.ListNamespacesRequest(page_size=2), timeout=DEADLINE)
    rest = pb.ListNamespacesRequest(page_size=2, page_token=first.next_page_token)
    second = await client._admin.ListNamespaces(rest, timeout=DEADLINE)
    names = [[namespace.name for namespace in page.namespaces] for page in (first, second)]
    assert (names, second.next_page_token) == ([["a", "b"], ["c"]], "")


async def test_a_push_beyond_the_quota_is_refused_and_the_rest_goes_on(client: RegistryClient, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    await client.update_namespace("small", max_bytes=(folder / WEIGHTS).stat().st_size)
    with pytest.raises(QuotaExceeded, match="namespace 'small'"):
        await client.push(folder, "small/cat")
    assert (await client.push(folder, "large/cat")).number == 1


async def test_a_change_is_in_the_audit_log(client: RegistryClient) -> None:
    await client.update_namespace("team", max_bytes=5, max_versions=6)
    entries = [entry async for entry in client.audit_entries(namespace="team")]
    assert [(e.action, e.name, e.detail) for e in entries] == [
        ("UpdateNamespace", "team", "max_bytes 5, max_versions 6")
    ]
