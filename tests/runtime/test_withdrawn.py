"""Versions that the registry took back, while they are being loaded; and what it has again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest

from compute_worker.contract import PublishedAdapter
from compute_worker.runtime.api import Weighted
from lorry.errors import VersionNotFound, VersionYanked
from lorry.format.reference import parse_adapter_name
from tests.support.toy_world import World, call, eventually, running

BY_ROUTE = {"selection": None, "route": "prod"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield await world.listening()


async def deleted_meanwhile(
    world: World, one: PublishedAdapter, work: Callable[[], Coroutine[None, None, object]]
) -> object:
    """What becomes of work that loads a version, where it is deleted before its bytes are there."""
    gate = world.registry.hold(one)
    begun = asyncio.create_task(work())
    await eventually(lambda: world.registry.fetched[world.registry.weights(one).digest] > 0)
    world.registry.delete("one", one)
    await eventually(lambda: world.runtime._held._following._token == str(len(world.registry._log)))
    gate.set()
    (outcome,) = await asyncio.gather(begun, return_exceptions=True)
    return outcome


async def test_what_was_asked_for_before_the_deletion_is_answered_and_leaves_nothing(world: World) -> None:
    one = world.registry.add("one")
    reply = await deleted_meanwhile(world, one, lambda: world.ask(call("hello", "one")))
    assert reply.tokens == world.expected(call("hello"), (one, 1.0))
    await eventually(lambda: world.tiers() == {})
    await eventually(lambda: not list((world.cache_dir / "blobs").iterdir()))


async def test_no_pin_is_left_on_it(world: World) -> None:
    one = world.registry.add("one")
    assert isinstance(await deleted_meanwhile(world, one, lambda: world.runtime.pin("one")), VersionNotFound)
    await eventually(lambda: one.digest not in world.runtime._held.ledger.entries)


async def test_no_route_gets_it(world: World) -> None:
    one = world.registry.add("one")
    outcome = await deleted_meanwhile(world, one, lambda: world.switch("prod", (Weighted("one"),), None))
    assert isinstance(outcome, VersionNotFound)
    assert [state.name for state in world.runtime.routes()] == ["default"]
    await eventually(lambda: one.digest not in world.runtime._held.ledger.entries)


async def test_two_adapters_that_lose_the_same_bytes_while_they_are_loaded_let_go_of_them(world: World) -> None:
    one, twin = world.registry.add("one", seed=1), world.registry.add("twin", seed=1)
    await world.runtime.load("twin")
    await world.runtime.unload("twin")

    world.engine.installing.clear()
    begun = asyncio.create_task(world.ask(call("hello", "one")))
    await eventually(lambda: world.runtime._held.ledger.entries[one.digest].installing is not None)
    world.registry.delete("one", one)
    world.registry.delete("twin", twin)
    await world.settled()
    world.engine.installing.set()
    await begun
    await eventually(lambda: world.tiers() == {})


async def restored(world: World, change: Callable[[], None]) -> None:
    """The change, and the registry as it was before: nobody is told of what is there again."""
    adapter, log = parse_adapter_name("one"), len(world.registry._log)
    before = list(world.registry._versions[adapter])
    change()
    await world.settled()
    world.registry._versions[adapter] = before
    del world.registry._log[log:]
    world.runtime._held._following._token = str(log)


@pytest.mark.parametrize("written", ["one", "one@{digest}"])
async def test_what_a_restored_registry_has_again_is_served_again(world: World, written: str) -> None:
    one = world.registry.add("one")
    reference = written.format(digest=one.digest)
    await world.switch("prod", (Weighted(reference),), None)
    await restored(world, lambda: world.registry.delete("one", one))
    for request in (call(**BY_ROUTE), call("hello", f"one@{one.digest}"), call("hello", "one")):
        assert (await world.ask(request)).tokens == world.expected(request, (one, 1.0))


async def test_a_yank_that_a_restored_registry_knows_nothing_of_is_none(world: World) -> None:
    one = world.registry.add("one")
    await world.switch("prod", (Weighted("one@1"),), None)
    await restored(world, lambda: world.registry.yank("one", one, "it leaks"))
    with pytest.raises(VersionYanked):
        await world.ask(call(**BY_ROUTE))
    await world.ask(call("hello", "one@1"))
    await world.ask(call(**BY_ROUTE))


async def test_while_the_registry_is_away_what_was_deleted_stays_so(world: World) -> None:
    one = world.registry.add("one")
    await world.switch("prod", (Weighted("one"),), None)
    world.registry.delete("one", one)
    await world.settled()
    world.registry.down = True
    for request in (call(**BY_ROUTE), call("hello", f"one@{one.digest}")):
        with pytest.raises(VersionNotFound, match="was deleted"):
            await world.ask(request)
