"""CreateVersion: what a version says, that it is one however often it comes, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lorry.errors import (
    AdapterNotFound,
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
from lorry.format.header import header_length
from lorry.rpc.convert import base_to_pb, manifest_from_pb
from lorry.v1 import catalog_pb2, types_pb2
from tests.conformance.guest import BASE, BASE_FACTS, NOWHERE, Guest
from tests.support.adapters import CONFIG, MODULES, WEIGHTS, base_for
from tests.support.tiny_kinds import KINDS

SMALLER = "conformance-smaller"
GHOST = types_pb2.RecipeSource(digest=NOWHERE, weight=1)


async def test_a_published_version_says_what_its_bytes_say(guest: Guest) -> None:
    options = {"rslora": True, "alpha": 8}
    version = await guest.publish("pirate", 0, options, base_model=BASE, alias="prod", labels={"a": "b"})
    assert (version.namespace, version.name, version.number) == (guest.namespace, "pirate", 1)
    assert list(version.aliases) == ["prod"]
    manifest = manifest_from_pb(version.manifest)
    assert manifest.digest == version.digest
    assert (manifest.base_id, manifest.variant, manifest.rank, manifest.alpha) == (BASE_FACTS.base_id, "rslora", 2, 8.0)
    assert manifest.target_modules == tuple(sorted(MODULES))
    assert version.size_bytes == sum(file.size for file in manifest.files)
    assert json.loads(manifest.config_json)["use_rslora"] is True
    adapter = (await guest.call("GetAdapter", adapter="pirate")).adapter
    assert (dict(adapter.labels), dict(adapter.aliases)) == ({"a": "b"}, {"prod": version.digest})
    assert (adapter.latest_digest, adapter.rank, adapter.base_id) == (version.digest, 2, BASE_FACTS.base_id)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_version_of_every_kind_says_what_it_does_beyond_lora_and_is_found_by_its_base(
    kind: str, guest: Guest
) -> None:
    config, weights = KINDS[kind].bytes()
    files = [await guest.put(config, CONFIG), await guest.put(weights, WEIGHTS)]
    version = (await guest.call("CreateVersion", adapter=kind, files=files, base_model=BASE)).version
    assert tuple(version.manifest.features) == KINDS[kind].features
    assert manifest_from_pb(version.manifest).digest == version.digest
    served = (await guest.call("ListAdapters", filter=f"fits={BASE}")).adapters
    assert [adapter.name for adapter in served] == [kind]


async def test_publishing_the_same_again_answers_the_same_version(guest: Guest) -> None:
    files = await guest.stored()
    first = await guest.call("CreateVersion", adapter="pirate", files=files)
    again = await guest.call("CreateVersion", adapter="pirate", files=list(reversed(files)))
    assert (first.created, again.created) == (True, False)
    assert again.version == first.version


async def test_of_many_that_publish_the_same_at_once_one_creates_it(guest: Guest) -> None:
    files = await guest.stored()
    answers = await asyncio.gather(*(guest.call("CreateVersion", adapter="pirate", files=files) for _ in range(16)))
    assert sum(answer.created for answer in answers) == 1
    assert {answer.version.digest for answer in answers} == {answers[0].version.digest}


async def test_other_bytes_get_the_next_number(guest: Guest) -> None:
    assert [version.number for version in await guest.several(3)] == [1, 2, 3]


async def test_of_many_that_publish_different_bytes_at_once_each_gets_a_number(guest: Guest) -> None:
    files = [await guest.stored(seed) for seed in range(8)]
    answers = await asyncio.gather(*(guest.call("CreateVersion", adapter="pirate", files=each) for each in files))
    assert sorted(answer.version.number for answer in answers) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_base_found_by_its_name_alone_is_a_warning(guest: Guest) -> None:
    named = await guest.publish("by-name")
    assert [warning.partition(":")[0] for warning in named.warnings] == ["BASE_UNVERIFIED"]
    assert not (await guest.publish("vouched", base_model=BASE)).warnings


async def test_a_base_that_nobody_registered_is_refused(guest: Guest) -> None:
    for base in (NOWHERE, "conformance-nothing"):
        with pytest.raises(BaseNotFound):
            await guest.publish("pirate", base_model=base)
    with pytest.raises(BaseNotFound):
        await guest.publish("pirate", 0, {"base_name": "conformance-nothing"})


async def test_a_child_records_its_parents_by_digest(guest: Guest) -> None:
    parent = await guest.publish("pirate", alias="prod")
    child = await guest.publish("pirate", 1, parents=["pirate:prod", "pirate@1"])
    assert list(child.manifest.parents) == [parent.digest]


async def test_a_parent_that_does_not_exist_is_refused(guest: Guest) -> None:
    await guest.publish("pirate")
    for parent in ("nobody", "pirate@7", "pirate:absent", f"pirate@{NOWHERE}"):
        with pytest.raises(ParentNotFound):
            await guest.publish("child", 1, parents=[parent])


def recipe(**changes: Any) -> types_pb2.Recipe:
    fields = {"method": "ties", "parameters_json": '{"density":0.5}', "tool": "lorry 0.1.0"}
    return types_pb2.Recipe(**(fields | changes))


async def test_a_combination_keeps_its_recipe(guest: Guest) -> None:
    source = await guest.publish("pirate")
    written = recipe(sources=[types_pb2.RecipeSource(digest=source.digest, weight=-0.5)])
    version = await guest.publish("combined", 1, recipe=written, parents=["pirate"])
    assert version.manifest.recipe == written
    read = (await guest.call("GetVersion", adapter="combined")).version
    assert manifest_from_pb(read.manifest).digest == version.digest


UNMAKEABLE: list[tuple[types_pb2.Recipe, type[LorryError]]] = [
    (recipe(sources=[GHOST]), ParentNotFound),
    (recipe(), InvalidInput),
    (recipe(sources=[types_pb2.RecipeSource(digest="x", weight=1)]), InvalidDigest),
    (recipe(sources=[types_pb2.RecipeSource(digest=GHOST.digest, weight=float("nan"))]), InvalidInput),
    (recipe(sources=[GHOST], parameters_json="[]"), InvalidInput),
    (recipe(sources=[GHOST], parameters_json='{"density": 0.5}'), InvalidInput),
    (recipe(sources=[GHOST], method="a\x00b"), InvalidInput),
]


async def test_a_recipe_that_cannot_be_right_is_refused(guest: Guest, subtests: pytest.Subtests) -> None:
    for written, error in UNMAKEABLE:
        with subtests.test(recipe=written), pytest.raises(error):
            await guest.publish("combined", recipe=written)


async def test_missing_blobs_are_listed(guest: Guest) -> None:
    config, weights = guest.files()
    there = await guest.put(config, CONFIG)
    lost = types_pb2.File(name=WEIGHTS, digest=digest_of(weights), size_bytes=len(weights))
    with pytest.raises(MissingBlobs, match=lost.digest) as caught:
        await guest.call("CreateVersion", adapter="pirate", files=[there, lost])
    assert there.digest not in caught.value.message


async def test_a_claimed_size_is_compared_with_the_bytes(guest: Guest) -> None:
    files = await guest.stored()
    files[1].size_bytes += 1
    with pytest.raises(InvalidAdapter, match=f"{WEIGHTS}: expected the blob's {files[1].size_bytes - 1}"):
        await guest.call("CreateVersion", adapter="pirate", files=files)


async def test_an_expected_digest_must_be_the_derived_one(guest: Guest) -> None:
    version = await guest.publish("pirate")
    assert (await guest.publish("twin", expected_digest=version.digest)).digest == version.digest
    with pytest.raises(InvalidAdapter, match="expected a manifest of digest sha256:0000"):
        await guest.publish("other", expected_digest=NOWHERE)


IMPOSSIBLE: list[tuple[dict[str, Any], type[LorryError]]] = [
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
    ({"files": [types_pb2.File(name="evil.bin", digest=NOWHERE)]}, InvalidAdapter),
    ({"files": [types_pb2.File(name=CONFIG, digest="x"), types_pb2.File(name=WEIGHTS, digest="x")]}, InvalidDigest),
    *(
        ({"files": [types_pb2.File(name=each, digest=NOWHERE) for each in (CONFIG, WEIGHTS, name)]}, InvalidAdapter)
        for name in ("../adapter_config.json", "/etc/passwd", "a\x00b", "")
    ),
]


async def test_a_field_that_cannot_be_right_is_refused_and_nothing_is_written(
    guest: Guest, subtests: pytest.Subtests
) -> None:
    files = await guest.stored()
    for fields, error in IMPOSSIBLE:
        with subtests.test(fields=fields), pytest.raises(error):
            await guest.call("CreateVersion", **{"adapter": "pirate", "files": files, **fields})
    assert not (await guest.call("ListAdapters")).adapters


async def test_an_adapter_of_a_kind_that_is_not_served_is_refused_by_name_and_can_be_repaired(guest: Guest) -> None:
    with pytest.raises(UnsupportedAdapter, match="layer_replication"):
        await guest.publish("pirate", 0, {"config": {"layer_replication": [[0, 1]]}})
    assert (await guest.publish("pirate")).number == 1


async def smaller(operator: Guest) -> types_pb2.BaseModel:
    """A base that the suite's adapters do not fit; it stays, as the other does."""
    shapes = {name: (4, out, rank) for name, (_, out, rank) in MODULES.items()}
    message = base_to_pb(base_for(shapes, seed=7_473), SMALLER)
    registered: types_pb2.BaseModel = (await operator.call("RegisterBaseModel", base_model=message)).base_model
    return registered


async def test_every_reason_against_a_base_is_told(operator: Guest) -> None:
    base = await smaller(operator)
    with pytest.raises(IncompatibleAdapter) as caught:
        await operator.publish("pirate", base_model=base.base_id)
    assert "SHAPE_MISMATCH" in caught.value.metadata["findings"]
    assert all(module in caught.value.message for module in MODULES)


async def test_a_published_version_is_judged_against_any_base(operator: Guest) -> None:
    await smaller(operator)
    await operator.publish("pirate")
    assert (await operator.call("CheckCompatibility", adapter="pirate@1", base_model=BASE)).compatible
    answer = await operator.call("CheckCompatibility", adapter="pirate", base_model=SMALLER)
    codes = {(finding.code, finding.module) for finding in answer.findings if not finding.warning}
    assert codes == {("BASE_MISMATCH", ""), *(("SHAPE_MISMATCH", name) for name in MODULES)}
    verdicts = {v.base_model: v for v in (await operator.call("ListVerdicts", adapter="pirate")).verdicts}
    assert verdicts[BASE].compatible
    assert list(verdicts[SMALLER].findings) == list(answer.findings)


def outline(files: tuple[bytes, bytes]) -> catalog_pb2.AdapterOutline:
    config, weights = files
    head = weights[: header_length(weights[:8])]
    return catalog_pb2.AdapterOutline(config_json=config, safetensors_header=head, weights_size_bytes=len(weights))


async def test_an_outline_is_judged_without_a_byte_of_weights(guest: Guest) -> None:
    fits = await guest.call("CheckCompatibility", outline=outline(guest.files()), base_model=BASE)
    assert (fits.compatible, list(fits.findings)) == (True, [])
    stranger = outline(guest.files(base_name="somebody/elses"))
    remarked = await guest.call("CheckCompatibility", outline=stranger, base_model=BASE)
    assert (remarked.compatible, [f.code for f in remarked.findings if f.warning]) == (True, ["BASE_UNVERIFIED"])


async def test_a_question_without_an_answer_is_refused(guest: Guest, subtests: pytest.Subtests) -> None:
    sound, odd = outline(guest.files()), outline(guest.files(config={"use_qalora": True}))
    questions: list[tuple[dict[str, Any], type[LorryError]]] = [
        ({"outline": sound, "base_model": "conformance-nothing"}, BaseNotFound),
        ({"outline": sound}, InvalidInput),
        ({"base_model": BASE}, InvalidInput),
        ({"adapter": "nobody@1", "base_model": BASE}, AdapterNotFound),
        ({"outline": catalog_pb2.AdapterOutline(), "base_model": BASE}, InvalidAdapter),
        ({"outline": odd, "base_model": BASE}, UnsupportedAdapter),
    ]
    for fields, error in questions:
        with subtests.test(fields=fields), pytest.raises(error) as caught:
            await guest.call("CheckCompatibility", **fields)
        assert type(caught.value) is error
