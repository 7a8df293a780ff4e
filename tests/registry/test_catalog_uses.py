"""Filters, rollback, lineage, leases and retention over a real socket."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from adapter_registry.domain.acting import Actor, Permission, Rights, acting
from adapter_registry.rpc.adapters import _readable
from adapter_registry.rpc.leases import _own
from lorry.errors import (
    AliasNotFound,
    InvalidDigest,
    InvalidFilter,
    InvalidInput,
    InvalidName,
    InvalidReference,
    LorryError,
    NoEarlierVersion,
    PermissionDenied,
    RevisionConflict,
    VersionInUse,
    VersionNotFound,
)
from lorry.v1 import catalog_pb2, types_pb2
from tests.support.adapters import adapter_bytes
from tests.support.registry import Client

TENANT = Actor("gpu-worker", Rights({"team": Permission.READ, "own": Permission.ADMIN}))


async def several(client: Client, count: int, **fields: Any) -> list[types_pb2.Version]:
    await client.register()
    return [await client.publish("pirate", adapter_bytes(seed=seed), **fields) for seed in range(count)]


async def test_versions_are_filtered(client: Client) -> None:
    first, _ = await several(client, 2)
    child = await client.publish("pirate", adapter_bytes(seed=9, rslora=True), parents=["pirate@1"])
    await client.call("SetAlias", adapter="pirate@2", alias="prod")
    for terms, numbers in {
        "variant=rslora": [3],
        f"parent={first.digest}": [3],
        "alias=prod": [2],
        "alias!=prod AND module=q_proj": [3, 1],
        f"created<={child.create_time.ToJsonString()[:10]}": [3, 2, 1],
        "fits=tiny-base": [3, 2, 1],
    }.items():
        listed = (await client.call("ListVersions", adapter="pirate", filter=terms)).versions
        assert [version.number for version in listed] == numbers, terms
    for broken in ("name=pirate", "labels.a=b", "created=soon"):
        with pytest.raises(InvalidFilter):
            await client.call("ListVersions", adapter="pirate", filter=broken)


async def test_a_token_of_versions_goes_with_its_filter(client: Client) -> None:
    await several(client, 3)
    page = await client.call("ListVersions", adapter="pirate", page_size=1, filter="rank>0")
    rest = await client.call("ListVersions", adapter="pirate", page_token=page.next_page_token, filter="rank>0")
    assert [version.number for version in rest.versions] == [2, 1]
    with pytest.raises(InvalidInput):
        await client.call("ListVersions", adapter="pirate", page_token=page.next_page_token)


def test_a_list_is_of_what_the_caller_may_read() -> None:
    assert _readable(None) is None
    with acting(TENANT):
        assert _readable(None) == {"team", "own"}
        assert _readable("team") == {"team"}
        with pytest.raises(PermissionDenied):
            _readable("secret")


async def test_an_alias_is_rolled_back(client: Client) -> None:
    first, second = await several(client, 2, alias="prod")
    with pytest.raises(RevisionConflict):
        await client.call("RollbackAlias", adapter="pirate", alias="prod", expected_revision=1)
    back = (await client.call("RollbackAlias", adapter="pirate", alias="prod", expected_revision=2)).alias
    assert (back.digest, back.number, back.revision) == (first.digest, 1, 3)
    forth = (await client.call("RollbackAlias", adapter="pirate", alias="prod")).alias
    assert forth.digest == second.digest
    await client.call("SetAlias", adapter="pirate@1", alias="new")
    with pytest.raises(NoEarlierVersion):
        await client.call("RollbackAlias", adapter="pirate", alias="new")
    with pytest.raises(AliasNotFound):
        await client.call("RollbackAlias", adapter="pirate", alias="absent")
    with pytest.raises(InvalidName):
        await client.call("RollbackAlias", adapter="pirate", alias="No")


async def test_lineage_tells_recipe_base_and_names(client: Client) -> None:
    first, second = await several(client, 2)
    sources = [types_pb2.RecipeSource(digest=v.digest, weight=w) for v, w in ((first, 1.5), (second, -0.5))]
    recipe = types_pb2.Recipe(method="ties", parameters_json="{}", sources=sources, tool="test 1")
    child = await client.publish("mixed", adapter_bytes(seed=7), recipe=recipe)
    told = await client.call("GetLineage", adapter="mixed")
    assert [node.digest for node in told.nodes[:1]] == [child.digest]
    by_name = {node.published_as[0]: node for node in told.nodes}
    assert by_name.keys() == {"default/mixed@1", "default/pirate@1", "default/pirate@2"}
    mixed, plain = by_name["default/mixed@1"], by_name["default/pirate@1"]
    assert (mixed.recipe, mixed.base_id, mixed.create_time) == (recipe, child.manifest.base_id, child.create_time)
    assert not plain.HasField("recipe")
    assert {(e.child, e.parent) for e in told.edges} == {(child.digest, first.digest), (child.digest, second.digest)}
    assert not told.truncated
    with pytest.raises(InvalidInput):
        await client.call("GetLineage", adapter="mixed", depth=-1)
    with pytest.raises(VersionNotFound):
        await client.call("GetLineage", adapter="mixed@7")


async def test_what_is_in_use_is_not_deleted(client: Client) -> None:
    first, second = await several(client, 2)
    references = [f"default/pirate@{version.digest}" for version in (first, second)]
    gone = f"nobody@{first.digest}"
    held = await client.call("RenewLeases", holder="gpu-1:7472", adapters=[gone, *references])
    assert (list(held.missing), list(held.yanked)) == ([gone], [])
    assert 30 < held.expire_time.seconds - first.create_time.seconds < 120
    leases = (await client.call("ListLeases", adapter="pirate")).leases
    assert [(lease.holder, lease.number, lease.digest) for lease in leases] == [
        ("gpu-1:7472", 1, first.digest),
        ("gpu-1:7472", 2, second.digest),
    ]
    with pytest.raises(VersionInUse, match="gpu-1:7472"):
        await client.call("DeleteVersion", adapter="pirate@1")
    broken = await client.call("DeleteVersion", adapter="pirate@1", force=True)
    assert list(broken.broken_leases) == ["gpu-1:7472"]
    await client.call("YankVersion", adapter="pirate@2", reason="bad")
    again = await client.call("RenewLeases", holder="gpu-1:7472", adapters=references, ttl=Duration(seconds=3600))
    assert (list(again.missing), list(again.yanked)) == (references[:1], references[1:])
    assert list((await client.call("DeleteAdapter", adapter="pirate", force=True)).broken_leases) == ["gpu-1:7472"]


EXACT = "pirate@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"holder": ""}, InvalidInput),
        ({"holder": "x" * 201}, InvalidInput),
        ({"holder": "gpu\x00"}, InvalidInput),
        ({"holder": "gpü"}, InvalidInput),
        ({"adapters": ["pirate"]}, InvalidDigest),
        ({"adapters": ["pirate@3"]}, InvalidDigest),
        ({"adapters": ["pirate@latest"]}, InvalidReference),
        ({"adapters": [EXACT] * 4_097}, InvalidInput),
        ({"ttl": Duration(nanos=1)}, InvalidInput),
        ({"ttl": Duration(seconds=3601)}, InvalidInput),
        ({"ttl": Duration(seconds=-5)}, InvalidInput),
    ],
)
async def test_leases_that_cannot_be_right_are_refused(
    client: Client, fields: dict[str, Any], error: type[LorryError]
) -> None:
    await client.call("RenewLeases", holder="x" * 200, adapters=[EXACT] * 4_096, ttl=Duration(seconds=1))
    with pytest.raises(error):
        await client.call("RenewLeases", **{"holder": "gpu", **fields})


def test_nobody_ends_the_leases_of_another_principal() -> None:
    assert _own("gpu-1") == "gpu-1"
    with acting(TENANT):
        assert _own("gpu-1") == "gpu-worker/gpu-1"
    with acting(Actor("somebody", TENANT.rights, via="gpu-worker")):
        assert _own("gpu-1") == "gpu-worker/gpu-1"


async def test_retention_is_written_and_told(client: Client) -> None:
    await several(client, 1)

    async def update(keep_last: int) -> types_pb2.Adapter:
        adapter = types_pb2.Adapter(name="pirate", keep_last=keep_last, description="not written")
        answer: catalog_pb2.UpdateAdapterResponse = await client.call(
            "UpdateAdapter", adapter=adapter, update_mask=FieldMask(paths=["keep_last"])
        )
        return answer.adapter

    assert (await update(3)).keep_last == 3
    assert (await client.call("GetAdapter", adapter="pirate")).adapter.keep_last == 3
    assert (await update(0)).description == ""
    for wrong in (-1, 1_000_001):
        with pytest.raises(InvalidInput, match="keep_last: expected 0 to 1000000"):
            await update(wrong)
