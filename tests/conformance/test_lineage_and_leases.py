"""Where a version comes from, and who uses it: GetLineage, RenewLeases, ListLeases."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from lorry.errors import (
    AdapterNotFound,
    InvalidDigest,
    InvalidInput,
    InvalidReference,
    LorryError,
    VersionInUse,
    VersionNotFound,
)
from lorry.v1 import types_pb2
from tests.conformance.guest import NOWHERE, Guest

EXACT = f"pirate@{NOWHERE}"


async def test_lineage_tells_recipe_base_and_names(guest: Guest) -> None:
    first, second = await guest.several(2)
    sources = [types_pb2.RecipeSource(digest=v.digest, weight=w) for v, w in ((first, 1.5), (second, -0.5))]
    recipe = types_pb2.Recipe(method="ties", parameters_json="{}", sources=sources, tool="test 1")
    child = await guest.publish("mixed", 7, recipe=recipe)
    told = await guest.call("GetLineage", adapter="mixed")
    assert [node.digest for node in told.nodes[:1]] == [child.digest]
    by_name = {node.published_as[0].removeprefix(f"{guest.namespace}/"): node for node in told.nodes}
    assert by_name.keys() == {"mixed@1", "pirate@1", "pirate@2"}
    mixed, plain = by_name["mixed@1"], by_name["pirate@1"]
    assert (mixed.recipe, mixed.base_id, mixed.create_time) == (recipe, child.manifest.base_id, child.create_time)
    assert not plain.HasField("recipe")
    assert {(e.child, e.parent) for e in told.edges} == {(child.digest, first.digest), (child.digest, second.digest)}
    assert not told.truncated


async def test_lineage_goes_both_ways_as_far_as_it_is_asked(guest: Guest) -> None:
    line = [await guest.publish("pirate")]
    line += [await guest.publish("pirate", seed, parents=[f"pirate@{seed}"]) for seed in range(1, 5)]
    whole = await guest.call("GetLineage", adapter="pirate@3")
    assert {node.digest for node in whole.nodes} == {version.digest for version in line}
    near = await guest.call("GetLineage", adapter="pirate@3", depth=1)
    assert {node.digest for node in near.nodes} == {version.digest for version in line[1:4]}
    assert (near.truncated, near.nodes[0].digest) == (True, line[2].digest)
    with pytest.raises(InvalidInput):
        await guest.call("GetLineage", adapter="pirate", depth=-1)
    with pytest.raises(VersionNotFound):
        await guest.call("GetLineage", adapter="pirate@7")


async def test_what_is_in_use_is_not_deleted(operator: Guest) -> None:
    first, second = await operator.several(2)
    holder = operator.namespace
    references = [operator.own(f"pirate@{version.digest}") for version in (first, second)]
    gone = operator.own(f"nobody@{first.digest}")
    held = await operator.call("RenewLeases", holder=holder, adapters=[gone, *references])
    assert (list(held.missing), list(held.yanked)) == ([gone], [])
    leases = (await operator.call("ListLeases", adapter="pirate")).leases
    assert [(lease.holder, lease.number, lease.digest) for lease in leases] == [
        (holder, 1, first.digest),
        (holder, 2, second.digest),
    ]
    with pytest.raises(VersionInUse, match=holder):
        await operator.call("DeleteVersion", adapter="pirate@1")
    broken = await operator.call("DeleteVersion", adapter="pirate@1", force=True)
    assert list(broken.broken_leases) == [holder]
    await operator.call("YankVersion", adapter="pirate@2", reason="bad")
    again = await operator.call("RenewLeases", holder=holder, adapters=references, ttl=Duration(seconds=3600))
    assert (list(again.missing), list(again.yanked)) == (references[:1], references[1:])
    assert list((await operator.call("DeleteAdapter", adapter="pirate", force=True)).broken_leases) == [holder]


async def test_a_lease_is_renewed_and_ended_by_its_holder(guest: Guest) -> None:
    version = await guest.publish("pirate")
    exact = f"pirate@{version.digest}"
    for _ in range(2):
        await guest.call("RenewLeases", holder=guest.namespace, adapters=[exact, exact])
        assert len((await guest.call("ListLeases", adapter="pirate")).leases) == 1
    await guest.call("RenewLeases", holder=guest.namespace)
    assert not (await guest.call("ListLeases", adapter="pirate")).leases
    with pytest.raises(AdapterNotFound):
        await guest.call("ListLeases", adapter="nobody")


IMPOSSIBLE: list[tuple[dict[str, Any], type[LorryError]]] = [
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
    ({"ttl": Duration(seconds=2**62)}, InvalidInput),
]


async def test_leases_that_cannot_be_right_are_refused(guest: Guest, subtests: pytest.Subtests) -> None:
    await guest.call("RenewLeases", holder="x" * 200, adapters=[EXACT] * 4_096, ttl=Duration(seconds=1))
    for fields, error in IMPOSSIBLE:
        with subtests.test(fields=str(fields)[:100]), pytest.raises(error):
            await guest.call("RenewLeases", **{"holder": guest.namespace, **fields})
