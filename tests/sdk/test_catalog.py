from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from lorry import RegistryClient
from lorry.errors import (
    AdapterNotFound,
    AliasNotFound,
    BaseConflict,
    BaseNotFound,
    DeadlineExceeded,
    InvalidFilter,
    RevisionConflict,
    Unavailable,
    VersionInUse,
    VersionNotFound,
    VersionYanked,
)
from lorry.rpc.convert import file_from_pb
from tests.support.adapters import BASE_NAME, base_for, write_adapter


async def test_a_base_is_registered_once_and_found_by_every_name(client: RegistryClient) -> None:
    facts = base_for()
    again = await client.register_base_model(BASE_NAME, facts, known_as=["org/tiny"])
    for name in (BASE_NAME, "org/tiny", facts.base_id):
        found = await client.base_model(name)
        assert (found.base_id, len(found.modules)) == (facts.base_id, len(facts.modules))
    assert again.known_as == ["org/tiny"]
    assert [base.name async for base in client.base_models()] == [BASE_NAME]


async def test_a_name_of_another_base_is_a_conflict(client: RegistryClient) -> None:
    with pytest.raises(BaseConflict):
        await client.register_base_model(BASE_NAME, base_for(seed=1))


async def test_what_is_not_there_is_said_by_its_class(client: RegistryClient, folder: Path) -> None:
    with pytest.raises(AdapterNotFound):
        await client.adapter("nobody")
    with pytest.raises(BaseNotFound):
        await client.base_model("nobody")
    await client.push(folder, "pirate")
    with pytest.raises(VersionNotFound):
        await client.version("pirate@7")
    with pytest.raises(AliasNotFound):
        await client.resolve("pirate:prod")


async def test_lists_run_over_all_pages(client: RegistryClient, tmp_path: Path) -> None:
    names = [f"a{number:03}" for number in range(103)]  # a page has 100
    version = await client.push(write_adapter(tmp_path / "one"), names[0])
    files = [file_from_pb(file) for file in version.manifest.files]
    await asyncio.gather(*(client.create_version(name, files) for name in names[1:]))
    assert [adapter.name async for adapter in client.adapters()] == names


async def test_adapters_are_filtered_by_the_registry(client: RegistryClient, tmp_path: Path) -> None:
    await client.push(write_adapter(tmp_path / "a"), "plain", labels={"team": "search"})
    await client.push(write_adapter(tmp_path / "b", dora=True), "other/dora")
    assert [a.name async for a in client.adapters(filter="variant = dora")] == ["dora"]
    assert [a.name async for a in client.adapters(filter="labels.team = search")] == ["plain"]
    assert [a.name async for a in client.adapters(namespace="other")] == ["dora"]
    with pytest.raises(InvalidFilter):
        _ = [a async for a in client.adapters(filter="colour = red")]


async def test_an_update_writes_what_is_given_and_leaves_the_rest(client: RegistryClient, folder: Path) -> None:
    await client.push(folder, "pirate", description="Arr", labels={"team": "sea"})
    described = await client.update_adapter("pirate", description="Yo ho")
    assert (described.description, dict(described.labels)) == ("Yo ho", {"team": "sea"})
    with pytest.raises(RevisionConflict):
        await client.update_adapter("pirate", labels={}, expected_revision=described.revision - 1)
    cleared = await client.update_adapter("pirate", labels={}, expected_revision=described.revision)
    assert (cleared.description, dict(cleared.labels)) == ("Yo ho", {})


async def test_an_alias_moves_by_compare_and_swap_and_remembers(client: RegistryClient, tmp_path: Path) -> None:
    first = await client.push(write_adapter(tmp_path / "a"), "pirate")
    second = await client.push(write_adapter(tmp_path / "b", seed=1), "pirate")
    made = await client.set_alias("pirate@1", "prod", expected_revision=0)
    with pytest.raises(RevisionConflict):
        await client.set_alias("pirate@2", "prod", expected_revision=0)
    await client.set_alias("pirate@2", "prod", expected_revision=made.revision)
    assert (await client.resolve("pirate:prod")).digest == second.digest
    assert [alias.alias async for alias in client.aliases("pirate")] == ["prod"]
    assert [a.digest async for a in client.aliases("pirate", history_of="prod")] == [second.digest, first.digest]
    await client.delete_alias("pirate", "prod")
    with pytest.raises(AliasNotFound):
        await client.resolve("pirate:prod")


async def test_a_yanked_version_resolves_by_digest_alone(client: RegistryClient, folder: Path) -> None:
    version = await client.push(folder, "pirate")
    yanked = await client.yank("pirate@1", "bad data")
    assert yanked.yank_reason == "bad data"
    with pytest.raises(VersionYanked):
        await client.resolve("pirate@1")
    assert (await client.resolve(f"pirate@{version.digest}")).number == 1


async def test_deletion_is_refused_while_something_names_the_version(client: RegistryClient, folder: Path) -> None:
    version = await client.push(folder, "pirate", alias="prod")
    with pytest.raises(VersionInUse):
        await client.delete_version("pirate@1")
    gone = await client.delete_version("pirate@1", force=True)
    assert (gone.digest, list(gone.deleted_aliases)) == (version.digest, ["prod"])


async def test_an_adapter_is_deleted_with_its_versions(client: RegistryClient, folder: Path) -> None:
    version = await client.push(folder, "pirate")
    assert list((await client.delete_adapter("pirate")).deleted_versions) == [version.digest]
    assert [adapter async for adapter in client.adapters()] == []


async def test_versions_come_newest_first(client: RegistryClient, tmp_path: Path) -> None:
    for seed in range(3):
        await client.push(write_adapter(tmp_path / str(seed), seed=seed), "pirate")
    assert [version.number async for version in client.versions("pirate")] == [3, 2, 1]


async def test_a_watch_goes_on_behind_the_token_it_is_given(client: RegistryClient, tmp_path: Path) -> None:
    for seed in range(2):
        await client.push(write_adapter(tmp_path / str(seed), seed=seed), "pirate")
    async with asyncio.timeout(20):
        events = client.watch(resume_token="0", namespace="default")  # noqa: S106 - a place in the stream
        first = await anext(events)
        await events.aclose()
        resumed = client.watch(resume_token=first.resume_token, namespace="default")
        second = await anext(resumed)
        await resumed.aclose()
    assert [e.version_created.number for e in (first, second)] == [1, 2]


async def test_an_alias_goes_back_and_versions_are_filtered(client: RegistryClient, tmp_path: Path) -> None:
    for seed in range(2):
        await client.push(write_adapter(tmp_path / str(seed), seed=seed), "pirate", alias="prod")
    assert (await client.rollback_alias("pirate", "prod", expected_revision=2)).number == 1
    assert [v.number async for v in client.versions("pirate", filter="alias = prod")] == [1]


async def test_lineage_and_leases_are_told(client: RegistryClient, folder: Path, tmp_path: Path) -> None:
    parent = await client.push(folder, "pirate")
    child = await client.push(write_adapter(tmp_path / "b", seed=1), "child", parents=["pirate"])
    told = await client.lineage("child", depth=1)
    assert [node.digest for node in told.nodes] == [child.digest, parent.digest]
    held = await client.renew_leases("gpu-1", [f"pirate@{parent.digest}"], ttl=timedelta(minutes=5))
    (lease,) = [lease async for lease in client.leases("pirate")]
    assert (lease.holder, lease.expire_time) == ("gpu-1", held.expire_time)
    await client.renew_leases("gpu-1", [])
    assert [lease async for lease in client.leases("pirate")] == []


async def test_retention_is_written_beside_the_rest(client: RegistryClient, folder: Path) -> None:
    await client.push(folder, "pirate", description="Arr")
    kept = await client.update_adapter("pirate", keep_last=7)
    assert (kept.keep_last, kept.description) == (7, "Arr")
    assert (await client.update_adapter("pirate", keep_last=0)).keep_last == 0


async def test_a_registry_that_is_not_there_is_unavailable() -> None:
    async with RegistryClient("127.0.0.1:1", timeout=5) as client:
        with pytest.raises(Unavailable):
            await client.resolve("pirate")


async def test_a_call_ends_at_its_deadline(client: RegistryClient) -> None:
    with pytest.raises(DeadlineExceeded):
        await client.within(0.000001).resolve("pirate")
    assert [a async for a in client.adapters()] == []  # the client itself keeps its own


def test_a_client_outside_of_an_event_loop_is_refused_at_once() -> None:
    with pytest.raises(RuntimeError, match="event loop"):
        RegistryClient("127.0.0.1:1")
