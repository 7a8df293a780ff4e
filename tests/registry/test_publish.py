from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lorry.errors import (
    BaseNotFound,
    IncompatibleAdapter,
    InvalidAdapter,
    InvalidDigest,
    InvalidInput,
    InvalidName,
    InvalidReference,
    LorryError,
    MissingBlobs,
    ParentNotFound,
    UnsupportedAdapter,
)
from lorry.format.digest import digest_of
from lorry.rpc.convert import manifest_from_pb
from lorry.v1 import types_pb2
from tests.support.adapters import BASE_NAME, CONFIG, WEIGHTS, adapter_bytes, base_for
from tests.support.registry import Client


async def stored(client: Client, **options: Any) -> list[types_pb2.File]:
    config, weights = adapter_bytes(**options)
    return [await client.put(config, CONFIG), await client.put(weights, WEIGHTS)]


async def test_a_published_version_says_what_its_bytes_say(client: Client) -> None:
    base = await client.register()
    version = await client.publish(
        "team/pirate", adapter_bytes(rslora=True, alpha=8), base_model=BASE_NAME, alias="prod", labels={"a": "b"}
    )
    assert (version.namespace, version.name, version.number) == ("team", "pirate", 1)
    assert list(version.aliases) == ["prod"]
    manifest = manifest_from_pb(version.manifest)
    assert manifest.digest == version.digest
    assert (manifest.base_id, manifest.variant, manifest.rank, manifest.alpha) == (base.base_id, "rslora", 2, 8.0)
    assert manifest.target_modules == ("model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj")
    assert version.size_bytes == sum(file.size for file in manifest.files)
    assert json.loads(manifest.config_json)["use_rslora"] is True
    adapter = (await client.call("GetAdapter", adapter="team/pirate")).adapter
    assert dict(adapter.labels) == {"a": "b"}
    assert dict(adapter.aliases) == {"prod": version.digest}
    assert (adapter.latest_digest, adapter.rank, adapter.base_id) == (version.digest, 2, base.base_id)


async def test_publishing_the_same_again_answers_the_same_version(client: Client) -> None:
    await client.register()
    files = await stored(client)
    first = await client.call("CreateVersion", adapter="pirate", files=files)
    again = await client.call("CreateVersion", adapter="pirate", files=list(reversed(files)))
    assert (first.created, again.created) == (True, False)
    assert again.version == first.version


async def test_of_many_that_publish_the_same_at_once_one_creates_it(client: Client) -> None:
    await client.register()
    files = await stored(client)
    answers = await asyncio.gather(*(client.call("CreateVersion", adapter="pirate", files=files) for _ in range(16)))
    assert sum(answer.created for answer in answers) == 1
    assert {answer.version.digest for answer in answers} == {answers[0].version.digest}


async def test_other_bytes_get_the_next_number(client: Client) -> None:
    await client.register()
    numbers = [(await client.publish("pirate", adapter_bytes(seed=seed))).number for seed in range(3)]
    assert numbers == [1, 2, 3]


async def test_a_base_found_by_its_name_alone_is_a_warning(client: Client) -> None:
    await client.register()
    named = await client.publish("by-name")
    assert len(named.warnings) == 1
    assert named.warnings[0].startswith("BASE_UNVERIFIED: ")
    vouched = await client.publish("vouched", base_model=BASE_NAME)
    assert not vouched.warnings


async def test_a_base_that_nobody_registered_is_refused(client: Client) -> None:
    for base in ("", "sha256:" + "0" * 64, "other"):
        with pytest.raises(BaseNotFound):
            await client.publish("pirate", base_model=base)


async def test_a_child_records_its_parents_by_digest(client: Client) -> None:
    await client.register()
    parent = await client.publish("pirate", alias="prod")
    child = await client.publish("pirate", adapter_bytes(seed=1), parents=["pirate:prod", "pirate@1"])
    assert list(child.manifest.parents) == [parent.digest]


@pytest.mark.parametrize("parent", ["nobody", "pirate@7", "pirate:absent", "pirate@sha256:" + "0" * 64])
async def test_a_parent_that_does_not_exist_is_refused(client: Client, parent: str) -> None:
    await client.register()
    await client.publish("pirate")
    with pytest.raises(ParentNotFound):
        await client.publish("child", adapter_bytes(seed=1), parents=[parent])


def recipe(**changes: Any) -> types_pb2.Recipe:
    fields = {"method": "ties", "parameters_json": '{"density":0.5}', "tool": "lorry 0.1.0"}
    return types_pb2.Recipe(**(fields | changes))


async def test_a_combination_keeps_its_recipe(client: Client) -> None:
    await client.register()
    source = await client.publish("pirate")
    written = recipe(sources=[types_pb2.RecipeSource(digest=source.digest, weight=-0.5)])
    version = await client.publish("combined", adapter_bytes(seed=1), recipe=written, parents=["pirate"])
    assert version.manifest.recipe == written
    read = (await client.call("GetVersion", adapter="combined")).version
    assert manifest_from_pb(read.manifest).digest == version.digest


GHOST = types_pb2.RecipeSource(digest="sha256:" + "0" * 64, weight=1)


@pytest.mark.parametrize(
    ("written", "error"),
    [
        (recipe(sources=[GHOST]), ParentNotFound),
        (recipe(), InvalidInput),
        (recipe(sources=[types_pb2.RecipeSource(digest="x", weight=1)]), InvalidDigest),
        (recipe(sources=[types_pb2.RecipeSource(digest=GHOST.digest, weight=float("nan"))]), InvalidInput),
        (recipe(sources=[GHOST], parameters_json="[]"), InvalidInput),
        (recipe(sources=[GHOST], parameters_json='{"density": 0.5}'), InvalidInput),
        (recipe(sources=[GHOST], method="a\x00b"), InvalidInput),
    ],
)
async def test_a_recipe_that_cannot_be_right_is_refused(
    client: Client, written: types_pb2.Recipe, error: type[LorryError]
) -> None:
    await client.register()
    with pytest.raises(error):
        await client.publish("combined", recipe=written)


async def test_missing_blobs_are_listed(client: Client) -> None:
    await client.register()
    config, weights = adapter_bytes()
    there = await client.put(config, CONFIG)
    lost = types_pb2.File(name=WEIGHTS, digest=digest_of(weights), size_bytes=len(weights))
    with pytest.raises(MissingBlobs, match=lost.digest) as caught:
        await client.call("CreateVersion", adapter="pirate", files=[there, lost])
    assert there.digest not in caught.value.message


async def test_a_claimed_size_is_compared_with_the_bytes(client: Client) -> None:
    await client.register()
    files = await stored(client)
    files[1].size_bytes += 1
    with pytest.raises(
        InvalidAdapter, match=f"adapter_model.safetensors: expected the blob's {files[1].size_bytes - 1}"
    ):
        await client.call("CreateVersion", adapter="pirate", files=files)


async def test_an_expected_digest_must_be_the_derived_one(client: Client) -> None:
    await client.register()
    version = await client.publish("pirate")
    same = await client.publish("twin", expected_digest=version.digest)
    assert same.digest == version.digest
    with pytest.raises(InvalidAdapter, match="expected a manifest of digest sha256:0000"):
        await client.publish("other", expected_digest="sha256:" + "0" * 64)


async def test_every_reason_against_a_base_is_told(client: Client) -> None:
    base = await client.register(base_for({"model.layers.0.self_attn.q_proj": (16, 8, 2)}))
    with pytest.raises(IncompatibleAdapter) as caught:
        await client.publish("pirate", base_model=base.base_id)
    assert caught.value.metadata["findings"] == "SHAPE_MISMATCH,UNKNOWN_MODULE"
    assert "model.layers.0.mlp.down_proj" in caught.value.message
    assert "8 -> 8" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"adapter": "Pirate"}, InvalidName),
        ({"adapter": "pirate@1"}, InvalidReference),
        ({"adapter": ""}, InvalidName),
        ({"alias": "Not A Name"}, InvalidName),
        ({"description": "x" * 4_097}, InvalidInput),
        ({"description": "a\x00b"}, InvalidInput),
        ({"labels": {"": "x"}}, InvalidInput),
        ({"labels": {"k" * 64: "x"}}, InvalidInput),
        ({"labels": {"k": "v" * 64}}, InvalidInput),
        ({"labels": {f"k{index}": "v" for index in range(65)}}, InvalidInput),
        ({"parents": ["a b"]}, InvalidName),
        ({"parents": ["a"] * 65}, InvalidInput),
        ({"expected_digest": "sha256:0"}, InvalidDigest),
        ({"base_model": "x" * 501}, InvalidInput),
        ({"files": []}, InvalidAdapter),
        ({"files": [types_pb2.File(name="evil.bin", digest="sha256:" + "0" * 64)]}, InvalidAdapter),
        ({"files": [types_pb2.File(name=CONFIG, digest="x"), types_pb2.File(name=WEIGHTS, digest="x")]}, InvalidDigest),
    ],
)
async def test_a_field_that_cannot_be_right_is_refused_and_nothing_is_written(
    client: Client, fields: dict[str, Any], error: type[LorryError]
) -> None:
    await client.register()
    request = {"adapter": "pirate", "files": await stored(client)} | fields
    with pytest.raises(error):
        await client.call("CreateVersion", **request)
    assert not (await client.call("ListAdapters")).adapters


async def test_an_adapter_of_a_kind_that_is_not_served_is_refused_by_name(client: Client) -> None:
    await client.register()
    with pytest.raises(UnsupportedAdapter, match="layer_replication"):
        await client.publish("pirate", adapter_bytes(config={"layer_replication": [[0, 1]]}))


async def test_a_refused_publication_can_be_repaired_under_the_same_name(client: Client) -> None:
    await client.register()
    with pytest.raises(UnsupportedAdapter):
        await client.publish("pirate", adapter_bytes(config={"layer_replication": [[0, 1]]}))
    assert (await client.publish("pirate")).number == 1
