"""What the worker tells the registry of what it uses, and what it does with the answer."""

from pathlib import Path

import pytest

from compute_worker.runtime import heartbeat
from compute_worker.runtime.api import Weighted
from lorry.errors import VersionNotFound, VersionYanked
from lorry.format.reference import AdapterName, Reference
from tests.support.toy_registry import ToyRegistry
from tests.support.toy_world import World, call, eventually, running


def told(world: World) -> list[str]:
    return world.registry.leases.get("toy", [])


async def test_what_is_loaded_is_told_at_once_and_what_is_gone_no_more(world: World) -> None:
    one = world.registry.add("team/one")
    await world.runtime.load("team/one")
    await eventually(lambda: told(world) == [f"team/one@{one.digest}"])
    await world.runtime.unload("team/one")
    await eventually(lambda: told(world) == [])


async def test_loads_in_a_row_share_a_beat(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_GATHER_SECONDS", 60.0)
    await eventually(lambda: "toy" in world.registry.leases)
    for name in ("one", "two", "three"):
        world.registry.add(name)
        await world.runtime.load(name)
    assert told(world) == []
    world.runtime._held._heartbeat.now()
    await eventually(lambda: len(told(world)) == 3)


async def test_a_default_namespace_is_told_by_name(world: World) -> None:
    one = world.registry.add("one")
    await world.runtime.load("one")
    await eventually(lambda: told(world) == [f"default/one@{one.digest}"])


async def test_a_combination_is_not_the_registrys(world: World) -> None:
    one = world.registry.add("one")
    combined = await world.combine("one")
    await world.ask(call("hello", combined.adapter, "one"))
    await eventually(lambda: told(world) == [f"default/one@{one.digest}"])


async def test_a_worker_that_stops_lets_everything_go(tmp_path: Path) -> None:
    registry = ToyRegistry()
    async with running(tmp_path, registry=registry) as world:
        world.registry.add("one")
        await world.runtime.load("one")
        await eventually(lambda: len(told(world)) == 1)
    assert registry.leases == {"toy": []}


async def test_what_the_registry_misses_is_dropped_as_if_it_had_been_heard(world: World) -> None:
    one = world.registry.add("one")
    world.registry.add("other")
    await world.runtime.load("one")
    await world.switch("default", (Weighted("one"),), None)
    await eventually(lambda: len(told(world)) == 1)
    world.registry.delete("one", one)
    await world.runtime.load("other")
    await eventually(lambda: one.digest not in world.tiers())
    with pytest.raises(VersionNotFound):
        await world.ask(call(selection=None))


async def test_what_the_registry_has_yanked_is_refused_with_its_reason(world: World) -> None:
    one = world.registry.add("one")
    world.registry.add("other")
    await world.switch("default", (Weighted("one"),), None)
    await eventually(lambda: len(told(world)) == 1)
    world.registry.yank("one", one, "it leaks")
    await world.runtime.load("other")
    exact = Reference(AdapterName("default", "one"), digest=one.digest)
    await eventually(lambda: exact in world.runtime._held.routes._withdrawn)
    with pytest.raises(VersionYanked, match="it leaks"):
        await world.ask(call(selection=None))
    await world.ask(call("hello", f"one@{one.digest}"))


async def test_a_registry_that_is_away_changes_nothing_and_is_told_when_it_is_back(world: World) -> None:
    one = world.registry.add("one")
    world.registry.down = True
    await eventually(lambda: not world.runtime._held.resolver._names.live)
    world.registry.down = False
    world.registry.add("other")
    await world.runtime.load("one")
    world.registry.leases.clear()
    world.registry.down = True
    request = call("hello", f"one@{one.digest}")
    assert (await world.ask(request)).tokens == world.expected(request, (one, 1.0))
    world.registry.down = False
    await world.listening()
    await eventually(lambda: told(world) == [f"default/one@{one.digest}"])
