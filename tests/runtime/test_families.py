"""Adapters of the base that this worker's base descends from."""

import pytest

from lorry.errors import IncompatibleAdapter, RegistryUnavailable
from lorry.format.digest import digest_of
from tests.support.adapters import adapter_bytes
from tests.support.toy_engine import WIDTH
from tests.support.toy_world import World, call, eventually


async def test_an_adapter_of_the_family_is_served_after_one_question(world: World) -> None:
    parent = digest_of(b"another")
    world.registry.carried.add((parent, world.engine.base.base_id))
    for name in ("first", "second"):
        published = world.registry.add(name, base_id=parent)
        request = call("hello", name)
        assert (await world.ask(request)).tokens == world.expected(request, (published, 1.0))
    assert world.registry.asked.total() == 1


async def test_an_adapter_of_the_family_waits_for_a_registry_that_can_be_asked(world: World) -> None:
    parent = digest_of(b"another")
    published = world.registry.add("child", base_id=parent)
    exact = f"child@{published.digest}"
    with pytest.raises(IncompatibleAdapter):
        await world.ask(call("hello", exact))
    world.registry.down = True
    with pytest.raises(RegistryUnavailable):
        await world.ask(call("hello", exact))
    world.registry.down = False
    world.registry.carried.add((parent, world.engine.base.base_id))
    await world.ask(call("hello", exact))


async def test_a_family_that_carries_over_no_more_serves_nobody_from_memory(world: World) -> None:
    parent = digest_of(b"another")
    world.registry.carried.add((parent, world.engine.base.base_id))
    published = world.registry.add("child", base_id=parent)
    await world.listening()
    exact = f"child@{published.digest}"
    await world.ask(call("hello", exact))
    world.registry.carried.clear()
    world.registry.tell("BASE_UPDATED")
    await world.settled()
    with pytest.raises(IncompatibleAdapter):
        await world.ask(call("hello", exact))
    world.registry.carried.add((parent, world.engine.base.base_id))
    assert (await world.ask(call("hello", exact))).started.adapters[0].digest == published.digest


async def test_a_family_is_asked_for_anew_where_events_were_missed(world: World) -> None:
    parent = digest_of(b"another")
    world.registry.carried.add((parent, world.engine.base.base_id))
    published = world.registry.add("child", base_id=parent)
    await world.listening()
    exact = f"child@{published.digest}"
    await world.ask(call("hello", exact))
    world.registry.silent = True
    world.registry.hang_up()
    await eventually(lambda: not world.runtime._held.resolver._names.live)
    world.registry.carried.clear()
    world.registry.tell("BASE_UPDATED")
    world.registry.forgotten = 2
    await world.listening()
    with pytest.raises(IncompatibleAdapter):
        await world.ask(call("hello", exact))


async def test_no_family_lets_another_shape_pass(world: World) -> None:
    parent = digest_of(b"another")
    world.registry.carried.add((parent, world.engine.base.base_id))
    world.registry.add_bytes("misfit", *adapter_bytes({"model.layers.9.up_proj": (WIDTH, WIDTH, 2)}), base_id=parent)
    with pytest.raises(IncompatibleAdapter, match="UNKNOWN_MODULE"):
        await world.runtime.load("misfit")
