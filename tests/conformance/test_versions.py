"""References, yanking and deletion: Resolve, GetVersion, YankVersion, DeleteVersion, and whole adapters."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lorry.errors import (
    AdapterNotFound,
    AliasNotFound,
    InvalidFieldMask,
    InvalidInput,
    InvalidName,
    InvalidReference,
    LorryError,
    RevisionConflict,
    VersionInUse,
    VersionNotFound,
    VersionYanked,
)
from lorry.v1 import types_pb2
from tests.conformance.guest import NOWHERE, Guest


async def test_every_spelling_of_a_reference_resolves(guest: Guest) -> None:
    first, second = await guest.several(2)
    await guest.call("SetAlias", adapter="pirate@1", alias="prod")
    expected = {
        "pirate": second.digest,
        "pirate@1": first.digest,
        "pirate:prod": first.digest,
        f"pirate@{second.digest}": second.digest,
    }
    for reference, digest in expected.items():
        for rpc in ("Resolve", "GetVersion"):
            assert (await guest.call(rpc, adapter=reference)).version.digest == digest
    read = (await guest.call("GetVersion", adapter="pirate@1")).version
    assert (read.number, list(read.aliases), read.manifest) == (1, ["prod"], first.manifest)


MEANINGLESS: list[tuple[str, type[LorryError]]] = [
    ("", InvalidName),
    ("a/b/c", InvalidName),
    ("pirate@0", InvalidReference),
    ("pirate@latest", InvalidReference),
    ("pirate" * 100, InvalidReference),
    ("nobody", AdapterNotFound),
    ("pirate@9", VersionNotFound),
    (f"pirate@{NOWHERE}", VersionNotFound),
    ("pirate:absent", AliasNotFound),
]


async def test_a_reference_that_means_nothing_is_refused(guest: Guest, subtests: pytest.Subtests) -> None:
    await guest.publish("pirate")
    for reference, error in MEANINGLESS:
        with subtests.test(reference=reference), pytest.raises(error) as caught:
            await guest.call("Resolve", adapter=reference)
        assert type(caught.value) is error
        with subtests.test(reference=reference), pytest.raises(error) as caught:
            await guest.call("GetVersion", adapter=reference)
        assert type(caught.value) is error


async def test_a_yanked_version_resolves_by_digest_alone(guest: Guest) -> None:
    first, second = await guest.several(2)
    yanked = (await guest.call("YankVersion", adapter="pirate@2", reason="swears")).version
    assert (yanked.yank_reason, yanked.digest) == ("swears", second.digest)
    assert (await guest.call("Resolve", adapter="pirate")).version.digest == first.digest
    assert (await guest.call("Resolve", adapter=f"pirate@{second.digest}")).version.digest == second.digest
    with pytest.raises(VersionYanked, match="swears"):
        await guest.call("Resolve", adapter="pirate@2")
    again = (await guest.call("YankVersion", adapter="pirate@2", reason="another reason")).version
    assert again == yanked
    for refused in ("  ", "x" * 1_001):
        with pytest.raises(InvalidInput, match="reason: expected 1 to 1000"):
            await guest.call("YankVersion", adapter="pirate@1", reason=refused)
    with pytest.raises(VersionNotFound):
        await guest.call("YankVersion", adapter="pirate@3", reason="not there")


async def test_a_version_in_use_is_deleted_by_force_alone(operator: Guest) -> None:
    parent = await operator.publish("pirate")
    child = await operator.publish("child", 9, parents=["pirate"])
    await operator.call("SetAlias", adapter="pirate@1", alias="prod")
    with pytest.raises(VersionInUse):
        await operator.call("DeleteVersion", adapter="pirate@1")
    gone = await operator.call("DeleteVersion", adapter="pirate@1", force=True)
    assert (gone.digest, list(gone.deleted_aliases)) == (parent.digest, ["prod"])
    assert list(gone.orphaned_children) == [child.digest]
    with pytest.raises(VersionNotFound):
        await operator.call("GetVersion", adapter="pirate@1")


async def test_a_number_is_never_given_again(operator: Guest) -> None:
    await operator.several(2)
    await operator.call("DeleteVersion", adapter="pirate@2")
    assert (await operator.publish("pirate", 2)).number == 3
    await operator.call("DeleteAdapter", adapter="pirate")
    assert (await operator.publish("pirate", 3)).number == 4


async def test_a_deletion_must_say_which_version(operator: Guest) -> None:
    await operator.publish("pirate")
    with pytest.raises(InvalidReference, match="bare name"):
        await operator.call("DeleteVersion", adapter="pirate")


async def test_an_adapter_is_deleted_with_its_versions(operator: Guest) -> None:
    versions = await operator.several(2, alias="prod")
    gone = await operator.call("DeleteAdapter", adapter="pirate")
    assert sorted(gone.deleted_versions) == sorted(version.digest for version in versions)
    for rpc in ("GetAdapter", "ListVersions", "ListAliases", "ListLeases", "Resolve"):
        with pytest.raises(AdapterNotFound):
            await operator.call(rpc, adapter="pirate")
    with pytest.raises(AdapterNotFound):
        await operator.call("DeleteAdapter", adapter="pirate")


async def test_an_adapter_with_children_elsewhere_is_deleted_by_force_alone(operator: Guest) -> None:
    await operator.publish("pirate")
    child = await operator.publish("child", 1, parents=["pirate"])
    with pytest.raises(VersionInUse, match=child.digest):
        await operator.call("DeleteAdapter", adapter="pirate")
    forced = await operator.call("DeleteAdapter", adapter="pirate", force=True)
    assert list(forced.orphaned_children) == [child.digest]


async def update(guest: Guest, *paths: str, name: str = "pirate", **fields: Any) -> types_pb2.Adapter:
    adapter = types_pb2.Adapter(namespace=guest.namespace, name=name, **fields)
    answer = await guest.call("UpdateAdapter", adapter=adapter, update_mask=FieldMask(paths=paths))
    changed: types_pb2.Adapter = answer.adapter
    return changed


async def test_an_update_writes_the_masked_fields_alone(guest: Guest) -> None:
    await guest.publish("pirate")
    first = await update(guest, "description", description="arr", labels={"not": "written"})
    assert (first.description, dict(first.labels)) == ("arr", {})
    second = await update(guest, "labels", labels={"team": "sea"}, revision=first.revision)
    assert (second.description, dict(second.labels), second.revision) == ("arr", {"team": "sea"}, first.revision + 1)
    with pytest.raises(RevisionConflict):
        await update(guest, "labels", revision=first.revision)
    assert (await guest.call("GetAdapter", adapter="pirate")).adapter == second


UNWRITABLE: list[tuple[list[str], dict[str, Any], type[LorryError]]] = [
    ([], {}, InvalidFieldMask),
    (["name"], {}, InvalidFieldMask),
    (["description", "create_time"], {}, InvalidFieldMask),
    (["labels"], {"labels": {"k": "v" * 64}}, InvalidInput),
    (["description"], {"description": "x" * 4_097}, InvalidInput),
    (["description"], {"name": "nobody"}, AdapterNotFound),
    (["description"], {"name": "a@1"}, InvalidName),
]


async def test_an_update_that_cannot_be_right_is_refused(guest: Guest, subtests: pytest.Subtests) -> None:
    await guest.publish("pirate")
    for paths, fields, error in UNWRITABLE:
        with subtests.test(paths=paths, fields=fields), pytest.raises(error):
            await update(guest, *paths, **fields)


async def test_retention_is_written_and_told(operator: Guest) -> None:
    await operator.publish("pirate")
    assert (await update(operator, "keep_last", keep_last=3, description="not written")).keep_last == 3
    assert (await operator.call("GetAdapter", adapter="pirate")).adapter.keep_last == 3
    assert (await update(operator, "keep_last", keep_last=0)).description == ""
    for wrong in (-1, 1_000_001):
        with pytest.raises(InvalidInput, match="keep_last: expected 0 to 1000000"):
            await update(operator, "keep_last", keep_last=wrong)
