from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lorry.errors import (
    AdapterNotFound,
    AliasNotFound,
    BaseConflict,
    BaseNotFound,
    InvalidDigest,
    InvalidFieldMask,
    InvalidFilter,
    InvalidInput,
    InvalidName,
    InvalidPageToken,
    InvalidReference,
    LorryError,
    RevisionConflict,
    VersionInUse,
    VersionNotFound,
    VersionYanked,
)
from lorry.rpc.convert import base_from_pb, base_to_pb
from lorry.v1 import types_pb2
from tests.support.adapters import adapter_bytes, base_for
from tests.support.registry import Client


async def several(client: Client, count: int) -> list[types_pb2.Version]:
    await client.register()
    return [await client.publish("pirate", adapter_bytes(seed=seed)) for seed in range(count)]


async def test_a_base_is_read_by_name_by_known_name_and_by_id(client: Client) -> None:
    facts = base_for()
    message = base_to_pb(facts, "smol", ["HuggingFaceTB/SmolLM2-135M-Instruct"])
    first = await client.call("RegisterBaseModel", base_model=message)
    again = await client.call("RegisterBaseModel", base_model=message)
    assert (first.created, again.created) == (True, False)
    for name in ("smol", "HuggingFaceTB/SmolLM2-135M-Instruct", facts.base_id):
        base = (await client.call("GetBaseModel", base_model=name)).base_model
        assert base_from_pb(base) == facts
        assert base.HasField("create_time")
    (listed,) = (await client.call("ListBaseModels")).base_models
    assert (listed.name, len(listed.modules)) == ("smol", 0)


async def test_a_name_of_another_base_is_a_conflict(client: Client) -> None:
    await client.register()
    with pytest.raises(BaseConflict):
        await client.register(base_for(seed=1))


def base(**changes: Any) -> types_pb2.BaseModel:
    message = base_to_pb(base_for(), "smol")
    for name, value in changes.items():
        if isinstance(value, list):
            message.ClearField(name)
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message


LINEAR = {"kind": types_pb2.MODULE_KIND_LINEAR, "in_features": 1, "out_features": 1}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (None, InvalidInput),
        (base(name=""), InvalidName),
        (base(name="a/b"), InvalidName),
        (base(base_id="sha256:1"), InvalidDigest),
        (base(architecture_id=""), InvalidDigest),
        (base(derived_from="other"), InvalidDigest),
        (base(model_type=""), InvalidInput),
        (base(vocab_size=0), InvalidInput),
        (base(vocab_size=-1), InvalidInput),
        (base(known_as=["a\x00b"]), InvalidInput),
        (base(known_as=["x"] * 65), InvalidInput),
        (base(modules=[]), InvalidInput),
        (base(modules=[types_pb2.Module(name="b", **LINEAR), types_pb2.Module(name="a", **LINEAR)]), InvalidInput),
        (base(modules=[types_pb2.Module(name="a", **LINEAR)] * 2), InvalidInput),
        (base(modules=[types_pb2.Module(name="a", **(LINEAR | {"kind": 9}))]), InvalidInput),
        (base(modules=[types_pb2.Module(name="a", **(LINEAR | {"in_features": 0}))]), InvalidInput),
    ],
)
async def test_a_base_that_cannot_be_right_is_refused(
    client: Client, message: types_pb2.BaseModel | None, error: type[LorryError]
) -> None:
    with pytest.raises(error):
        await client.call("RegisterBaseModel", base_model=message)
    assert not (await client.call("ListBaseModels")).base_models


@pytest.mark.parametrize("name", ["nothing", "sha256:" + "0" * 64])
async def test_an_unknown_base_is_not_found(client: Client, name: str) -> None:
    with pytest.raises(BaseNotFound):
        await client.call("GetBaseModel", base_model=name)


async def test_versions_are_listed_newest_first_page_by_page(client: Client) -> None:
    await several(client, 3)
    first = await client.call("ListVersions", adapter="pirate", page_size=2)
    second = await client.call("ListVersions", adapter="pirate", page_size=2, page_token=first.next_page_token)
    assert [version.number for version in (*first.versions, *second.versions)] == [3, 2, 1]
    assert not second.next_page_token


@pytest.mark.parametrize("method", ["ListBaseModels", "ListAdapters", "ListVersions", "ListAliases"])
async def test_a_foreign_page_token_and_a_negative_size_are_refused(client: Client, method: str) -> None:
    await several(client, 1)
    scope = {"adapter": "pirate"} if method in {"ListVersions", "ListAliases"} else {}
    foreign = "of-my-own"
    with pytest.raises(InvalidPageToken):
        await client.call(method, page_token=foreign, **scope)
    with pytest.raises(InvalidInput):
        await client.call(method, page_size=-1, **scope)
    await client.call(method, page_size=1_000_000, **scope)


async def test_every_spelling_of_a_reference_resolves(client: Client) -> None:
    first, second = await several(client, 2)
    await client.call("SetAlias", adapter="pirate@1", alias="prod")
    expected = {
        "pirate": second.digest,
        "default/pirate": second.digest,
        "pirate@1": first.digest,
        "pirate:prod": first.digest,
        f"pirate@{second.digest}": second.digest,
    }
    for reference, digest in expected.items():
        assert (await client.call("Resolve", adapter=reference)).version.digest == digest


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("", InvalidName),
        ("a/b/c", InvalidName),
        ("pirate@0", InvalidReference),
        ("pirate@latest", InvalidReference),
        ("pirate" * 100, InvalidReference),
        ("nobody", AdapterNotFound),
        ("pirate@9", VersionNotFound),
        ("pirate@sha256:" + "0" * 64, VersionNotFound),
        ("pirate:absent", AliasNotFound),
    ],
)
async def test_a_reference_that_means_nothing_is_refused(
    client: Client, reference: str, error: type[LorryError]
) -> None:
    await several(client, 1)
    for method in ("Resolve", "GetVersion"):
        with pytest.raises(error) as caught:
            await client.call(method, adapter=reference)
        assert type(caught.value) is error


async def test_a_yanked_version_resolves_by_digest_alone(client: Client) -> None:
    first, second = await several(client, 2)
    yanked = (await client.call("YankVersion", adapter="pirate@2", reason="swears")).version
    assert (yanked.yank_reason, yanked.digest) == ("swears", second.digest)
    assert (await client.call("Resolve", adapter="pirate")).version.digest == first.digest
    assert (await client.call("Resolve", adapter=f"pirate@{second.digest}")).version.digest == second.digest
    with pytest.raises(VersionYanked, match="swears"):
        await client.call("Resolve", adapter="pirate@2")
    with pytest.raises(InvalidInput, match="reason: expected 1 to 1000"):
        await client.call("YankVersion", adapter="pirate@1", reason="  ")


async def test_a_version_in_use_is_deleted_by_force_alone(client: Client) -> None:
    (parent,) = await several(client, 1)
    child = await client.publish("child", adapter_bytes(seed=9), parents=["pirate"])
    await client.call("SetAlias", adapter="pirate@1", alias="prod")
    with pytest.raises(VersionInUse):
        await client.call("DeleteVersion", adapter="pirate@1")
    gone = await client.call("DeleteVersion", adapter="pirate@1", force=True)
    assert (gone.digest, list(gone.deleted_aliases)) == (parent.digest, ["prod"])
    assert list(gone.orphaned_children) == [child.digest]
    with pytest.raises(VersionNotFound):
        await client.call("GetVersion", adapter="pirate@1")


async def test_a_deletion_must_say_which_version(client: Client) -> None:
    await several(client, 1)
    with pytest.raises(InvalidReference, match="bare name"):
        await client.call("DeleteVersion", adapter="pirate")


async def test_an_adapter_is_deleted_with_its_versions(client: Client) -> None:
    versions = await several(client, 2)
    gone = await client.call("DeleteAdapter", adapter="pirate")
    assert sorted(gone.deleted_versions) == sorted(version.digest for version in versions)
    with pytest.raises(AdapterNotFound):
        await client.call("GetAdapter", adapter="pirate")


async def update(client: Client, *paths: str, name: str = "pirate", **fields: Any) -> types_pb2.Adapter:
    adapter = types_pb2.Adapter(name=name, **fields)
    return (await client.call("UpdateAdapter", adapter=adapter, update_mask=FieldMask(paths=paths))).adapter


async def test_an_update_writes_the_masked_fields_alone(client: Client) -> None:
    await several(client, 1)
    first = await update(client, "description", description="arr", labels={"not": "written"})
    assert (first.description, dict(first.labels)) == ("arr", {})
    second = await update(client, "labels", labels={"team": "sea"}, revision=first.revision)
    assert (second.description, dict(second.labels), second.revision) == ("arr", {"team": "sea"}, first.revision + 1)
    with pytest.raises(RevisionConflict):
        await update(client, "labels", revision=first.revision)


@pytest.mark.parametrize(
    ("paths", "fields", "error"),
    [
        ([], {}, InvalidFieldMask),
        (["name"], {}, InvalidFieldMask),
        (["description", "create_time"], {}, InvalidFieldMask),
        (["labels"], {"labels": {"k": "v" * 64}}, InvalidInput),
        (["description"], {"description": "x" * 4_097}, InvalidInput),
        (["description"], {"name": "nobody"}, AdapterNotFound),
        (["description"], {"name": "a@1"}, InvalidName),
    ],
)
async def test_an_update_that_cannot_be_right_is_refused(
    client: Client, paths: list[str], fields: dict[str, Any], error: type[LorryError]
) -> None:
    await several(client, 1)
    with pytest.raises(error):
        await update(client, *paths, **fields)


async def test_adapters_are_filtered(client: Client) -> None:
    await several(client, 1)
    await client.publish("team/json", adapter_bytes(seed=5, rslora=True), labels={"kind": "format"})
    for terms, names in {
        "": ["pirate", "json"],
        "variant=rslora": ["json"],
        "name=pir*": ["pirate"],
        "labels.kind=format AND rank<=2": ["json"],
        "size<1": [],
    }.items():
        listed = (await client.call("ListAdapters", filter=terms)).adapters
        assert sorted(adapter.name for adapter in listed) == sorted(names)
    assert [adapter.name for adapter in (await client.call("ListAdapters", namespace="team")).adapters] == ["json"]
    for broken in ("rank=", "owner=me", "rank~8"):
        with pytest.raises(InvalidFilter):
            await client.call("ListAdapters", filter=broken)


async def test_an_alias_moves_by_compare_and_swap_and_keeps_its_history(client: Client) -> None:
    first, second = await several(client, 2)
    made = (await client.call("SetAlias", adapter="pirate@1", alias="prod", expected_revision=0)).alias
    moved = (await client.call("SetAlias", adapter="pirate@2", alias="prod", expected_revision=made.revision)).alias
    assert (made.digest, moved.digest, moved.revision) == (first.digest, second.digest, made.revision + 1)
    for stale in (0, made.revision):
        with pytest.raises(RevisionConflict) as caught:
            await client.call("SetAlias", adapter="pirate@1", alias="prod", expected_revision=stale)
        assert caught.value.metadata["revision"] == str(moved.revision)
    (now,) = (await client.call("ListAliases", adapter="pirate")).aliases
    assert now == moved
    await client.call("DeleteAlias", adapter="pirate", alias="prod", expected_revision=moved.revision)
    history = (await client.call("ListAliases", adapter="pirate", history_of="prod")).aliases
    assert [move.digest for move in history] == ["", second.digest, first.digest]
    with pytest.raises(AliasNotFound):
        await client.call("DeleteAlias", adapter="pirate", alias="prod")
