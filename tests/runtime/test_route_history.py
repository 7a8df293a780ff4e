"""What a route was before: kept, told with who and how, and brought back by digest."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from compute_worker.runtime.api import RouteChange, RouteTarget, Weighted
from compute_worker.runtime.rights import Permission, Rights, acting
from compute_worker.runtime.route import KEPT
from lorry.errors import (
    InvalidInput,
    NoEarlierVersion,
    RevisionConflict,
    RouteNotFound,
    StorageUnavailable,
    VersionNotFound,
)
from tests.support.toy_registry import ToyRegistry
from tests.support.toy_world import World, call, eventually, running

BY_ROUTE = {"selection": None}


def shown(world: World, name: str = "news") -> list[tuple[int, str, list[str]]]:
    """Revision, how, and the adapters as written, of all that is kept."""
    return [
        (state.revision, state.change.value, [a.adapter for a in state.adapters])
        for state in world.runtime.route_history(name)
    ]


async def test_every_change_is_kept_with_who_made_it_and_when(world: World) -> None:
    began = datetime.now(UTC)
    world.registry.add("one")
    with acting(Rights({"*": Permission.ADMIN}, "alice")):
        await world.switch("news", (Weighted("one"),), None)
    await world.switch("news", (), None)
    history = world.runtime.route_history("news")
    assert [(state.revision, state.principal) for state in history] == [(1, "alice"), (2, "")]
    assert began <= history[0].updated <= history[1].updated <= datetime.now(UTC)


async def test_a_followed_name_is_a_revision_of_the_workers_own(world: World) -> None:
    await world.listening()
    world.registry.add("one")
    with acting(Rights({"*": Permission.ADMIN}, "alice")):
        await world.switch("news", (Weighted("one"),), None)
        world.registry.add("one", rank=4)
        await eventually(lambda: world.runtime.route("news").revision == 2)
    assert [(s.change, s.principal) for s in world.runtime.route_history("news")] == [
        (RouteChange.SWITCH, "alice"),
        (RouteChange.FOLLOW, ""),
    ]


async def test_a_rollback_serves_what_was_served_and_follows_nothing(world: World) -> None:
    await world.listening()
    old = world.registry.add("one")
    world.registry.point("one", "prod", old)
    two = world.registry.add("two")
    await world.runtime.switch("news", (RouteTarget((Weighted("one:prod", 0.5),), 3.0, "a"), RouteTarget(())), None)
    await world.switch("news", (Weighted("two@1"),), None)
    world.registry.point("one", "prod", world.registry.add("one", rank=4))
    state = await world.runtime.rollback("news", 0, 2)
    assert [(b.name, b.share) for b in state.branches] == [("a", 3.0), ("2", 1.0)]
    assert (state.revision, state.adapters[0].digest, state.adapters[0].weight) == (3, old.digest, 0.5)
    await world.settled()
    assert shown(world) == [
        (1, "switch", ["one:prod"]),
        (2, "switch", ["two@1"]),
        (3, "rollback", [f"one@{old.digest}"]),
    ]
    assert (await world.runtime.rollback("news", 0, None)).adapters[0].digest == two.digest


async def test_a_rollback_to_what_is_not_kept_is_refused(world: World) -> None:
    with pytest.raises(RouteNotFound):
        await world.runtime.rollback("news", 0, None)
    await world.switch("news", (), None)
    with pytest.raises(NoEarlierVersion, match=r"kept \(none\), got 0"):
        await world.runtime.rollback("news", 0, None)
    await world.switch("news", (), None)
    for revision in (2, 9, -1):
        with pytest.raises(NoEarlierVersion, match=rf"kept \(1\), got {revision}"):
            await world.runtime.rollback("news", revision, None)
    with pytest.raises(RevisionConflict):
        await world.runtime.rollback("news", 1, 1)


async def test_a_rollback_to_what_was_deleted_changes_nothing(world: World) -> None:
    await world.listening()
    one = world.registry.add("one")
    await world.switch("news", (Weighted("one"),), None)
    await world.switch("news", (), None)
    world.registry.delete("one", one)
    await world.settled()
    with pytest.raises(VersionNotFound):
        await world.runtime.rollback("news", 1, None)
    assert world.runtime.route("news").revision == 2


async def test_a_bounded_number_of_revisions_is_kept(world: World) -> None:
    for _ in range(KEPT + 5):
        await world.switch("news", (), None)
    assert [revision for revision, *_ in shown(world)] == list(range(6, KEPT + 6))


async def test_history_outlives_the_worker(tmp_path: Path) -> None:
    registry = ToyRegistry()
    registry.add("one")
    async with running(tmp_path, registry=registry) as world:
        await world.switch("news", (Weighted("one"),), None)
        await world.runtime.switch("news", (RouteTarget((), 0.5, "a"), RouteTarget(())), None)
        before = world.runtime.route_history("news")
    async with running(tmp_path, registry=registry) as world:
        assert world.runtime.route_history("news") == before
        assert (await world.runtime.rollback("news", 1, 2)).revision == 3


@pytest.mark.parametrize("changes", [2, KEPT + 1, KEPT + 2, 2 * KEPT + 3])
async def test_as_much_of_the_history_is_on_disk_as_in_memory(tmp_path: Path, changes: int) -> None:
    async with running(tmp_path) as world:
        for _ in range(changes):
            await world.switch("news", (), None)
        before = world.runtime.route_history("news")
    async with running(tmp_path) as world:
        assert world.runtime.route_history("news") == before


async def test_a_revision_that_was_cut_off_on_disk_is_forgotten_and_those_before_and_behind_are_not(
    tmp_path: Path,
) -> None:
    file = tmp_path / "routes" / "news.json"
    async with running(tmp_path) as world:
        for _ in range(4):
            await world.switch("news", (), None)
    file.write_bytes(file.read_bytes()[:-7])
    async with running(tmp_path) as world:
        assert [revision for revision, *_ in shown(world)] == [1, 2, 3]
        for _ in range(2):
            await world.switch("news", (), None)
        before = world.runtime.route_history("news")
    async with running(tmp_path) as world:
        assert world.runtime.route_history("news") == before


async def test_a_file_that_is_gone_is_written_again_with_the_next_change(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await world.switch("news", (), None)
        (tmp_path / "routes" / "news.json").unlink()
        await world.switch("news", (), None)
    async with running(tmp_path) as world:
        assert [revision for revision, *_ in shown(world)] == [1, 2]


async def test_a_change_that_could_not_be_written_is_none_and_the_next_one_is(tmp_path: Path) -> None:
    file = tmp_path / "routes" / "news.json"
    async with running(tmp_path) as world:
        await world.switch("news", (), None)
        kept = file.read_bytes()
        file.unlink()
        file.mkdir()
        with pytest.raises(StorageUnavailable):
            await world.switch("news", (), None)
        assert world.runtime.route("news").revision == 1
        file.rmdir()
        file.write_bytes(kept + b"\n{half of a")
        await world.switch("news", (), None)
    async with running(tmp_path) as world:
        assert [revision for revision, *_ in shown(world)] == [1, 2]


async def test_a_route_that_was_removed_is_gone_and_begins_anew(tmp_path: Path) -> None:
    registry = ToyRegistry()
    registry.add("one")
    async with running(tmp_path, registry=registry) as world:
        await world.switch("news", (Weighted("one"),), None)
        with pytest.raises(RevisionConflict):
            world.runtime.delete_route("news", 2)
        world.runtime.delete_route("news", 1)
        with pytest.raises(RouteNotFound):
            await world.ask(call(route="news", **BY_ROUTE))
        assert (await world.runtime.unload("one"))[1]
        with pytest.raises(InvalidInput, match="always exists"):
            world.runtime.delete_route("default")
    async with running(tmp_path, registry=registry) as world:
        assert [state.name for state in world.runtime.routes()] == ["default"]
        assert (await world.switch("news", (), 0)).revision == 1
