"""Routes follow the names that they were written with, and refuse what was withdrawn."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from compute_worker.contract import EngineLimits
from compute_worker.runtime.api import Tier, Weighted
from lorry.errors import VersionNotFound, VersionYanked
from lorry.format.digest import digest_of
from tests.support.toy_world import World, call, eventually, running

BY_ROUTE = {"selection": None}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield await world.listening()


def served(world: World) -> list[str]:
    return [adapter.digest for adapter in world.runtime.route("default").adapters]


@pytest.mark.parametrize("reference", ["one", "one:prod"])
async def test_a_route_moves_with_its_name_once_all_of_it_is_resident(world: World, reference: str) -> None:
    old, beside = world.registry.add("one"), world.registry.add("beside")
    world.registry.point("one", "prod", old)
    await world.switch("default", (Weighted(reference, 0.5), Weighted("beside@1")), None)
    world.engine.installing.clear()
    new = world.registry.add("one", rank=4)
    world.registry.point("one", "prod", new)
    await eventually(lambda: new.digest in world.runtime._held.ledger.entries)
    assert (served(world), world.runtime.route("default").revision) == ([old.digest, beside.digest], 2)
    world.engine.installing.set()
    await world.settled()
    assert (served(world), world.runtime.route("default").revision) == ([new.digest, beside.digest], 3)
    installs, request = len(world.engine.installs), call(**BY_ROUTE)
    assert (await world.ask(request)).tokens == world.expected(request, (new, 0.5), (beside, 1.0))
    assert len(world.engine.installs) == installs


@pytest.mark.parametrize("written", ["one@1", "one@{digest}"])
async def test_a_route_that_was_written_exactly_stays(world: World, written: str) -> None:
    old = world.registry.add("one")
    await world.switch("default", (Weighted(written.format(digest=old.digest)),), None)
    world.registry.add("one", rank=4)
    await world.settled()
    assert served(world) == [old.digest]


async def test_a_route_stays_where_its_name_moved_to_what_cannot_be_served(world: World) -> None:
    old = world.registry.add("one")
    await world.switch("default", (Weighted("one"),), None)
    world.registry.add("one", rank=4, base_id=digest_of(b"another base"))
    await world.settled()
    assert served(world) == [old.digest]
    await world.ask(call(**BY_ROUTE))
    third = world.registry.add("one", rank=3)
    await world.settled()
    assert served(world) == [third.digest]


async def test_a_name_that_moves_while_a_switch_loads_is_followed_afterwards(world: World) -> None:
    old = world.registry.add("one")
    gate = world.registry.hold(old)
    switch = asyncio.create_task(world.switch("default", (Weighted("one"),), None))
    await eventually(lambda: world.registry.fetched[world.registry.weights(old).digest] == 1)
    new = world.registry.add("one", rank=4)
    await world.settled()
    gate.set()
    await switch
    await eventually(lambda: served(world) == [new.digest])


async def test_a_switch_wins_over_a_name_that_is_being_followed(world: World) -> None:
    world.registry.add("one")
    chosen = world.registry.add("chosen")
    await world.switch("default", (Weighted("one"),), None)
    new = world.registry.add("one", rank=4)
    gate = world.registry.hold(new)
    await eventually(lambda: world.registry.fetched[world.registry.weights(new).digest] == 1)
    await world.switch("default", (Weighted("chosen"),), None)
    gate.set()
    await world.settled()
    assert served(world) == [chosen.digest]


async def test_a_route_to_a_yanked_version_refuses_until_it_is_switched(world: World) -> None:
    one = world.registry.add("one")
    world.registry.point("one", "prod", one)
    await world.switch("default", (Weighted("one:prod"),), None)
    await world.switch("exact", (Weighted(f"one@{one.digest}"),), None)
    world.registry.yank("one", one, "it leaks")
    await world.settled()
    for _ in range(2):
        with pytest.raises(VersionYanked, match="it leaks"):
            await world.ask(call(**BY_ROUTE))
    await world.ask(call(route="exact", **BY_ROUTE))
    fixed = world.registry.add("one", rank=4)
    world.registry.point("one", "prod", fixed)
    await world.settled()
    assert (await world.ask(call(**BY_ROUTE))).started.adapters[0].digest == fixed.digest


async def test_a_route_to_a_deleted_version_says_so_and_lets_it_go(world: World) -> None:
    one = world.registry.add("one")
    for name, written in {"default": "one@1", "exact": f"one@{one.digest}"}.items():
        await world.switch(name, (Weighted(written),), None)
    world.registry.delete("one", one)
    await eventually(lambda: world.tiers() == {})
    for route in ("default", "exact"):
        with pytest.raises(VersionNotFound, match="was deleted"):
            await world.ask(call(route=route, **BY_ROUTE))
    await world.switch("default", (), None)
    await world.ask(call(**BY_ROUTE))


async def test_requests_by_route_get_one_version_or_the_next_whole_while_its_name_moves(world: World) -> None:
    versions = [world.registry.add("one", rank=rank) for rank in (2, 3)]
    by_digest = {version.digest: version for version in versions}
    world.registry.point("one", "prod", versions[0])
    await world.switch("default", (Weighted("one:prod"),), None)
    done = False

    async def client() -> None:
        while not done:
            request = call(**BY_ROUTE)
            reply = await world.ask(request)
            assert reply.tokens == world.expected(request, (by_digest[reply.started.adapters[0].digest], 1.0))

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for turn in range(10):
        world.registry.point("one", "prod", versions[(turn + 1) % 2])
        await world.settled()
        assert served(world) == [versions[(turn + 1) % 2].digest]
    done = True
    await asyncio.gather(*clients)
    assert world.runtime.route("default").revision == 12
    assert world.tiers()[versions[0].digest] is Tier.POOL


async def test_a_route_that_could_not_follow_for_want_of_rows_does_so_later(tmp_path: Path) -> None:
    async with running(tmp_path, default_wait=0.05) as world:
        await world.listening()
        world.registry.add("one")
        world.registry.add("big", rank=14)
        await world.switch("default", (Weighted("one"),), None)
        world.engine.running.clear()
        holding = asyncio.create_task(world.ask(call("hello", "big")))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        new = world.registry.add("one", rank=4)
        await eventually(lambda: world.registry.resolved["one"] == 2)
        world.engine.running.set()
        await holding
        await eventually(lambda: served(world) == [new.digest])


async def test_a_route_follows_also_where_somebody_always_waits_for_rows(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=8, row_bytes=1, kv_blocks=64, block_tokens=4, max_context=64)
    async with running(tmp_path, limits=limits, default_wait=1.0) as world:
        await world.listening()
        world.registry.add("one", rank=2)
        for name in "abc":  # one of them at a time, beside what the route holds
            world.registry.add(name, rank=6)
        await world.switch("default", (Weighted("one"),), None)
        ended = asyncio.Event()

        async def ask_again_and_again(name: str) -> None:
            while not ended.is_set():
                await world.ask(call("hello", name))

        asking = [asyncio.create_task(ask_again_and_again(name)) for name in "abc"]
        await eventually(lambda: len(world.runtime._held.pool._line._waiting) == 2)
        new = world.registry.add("one", rank=1)
        await eventually(lambda: served(world) == [new.digest])
        ended.set()
        await asyncio.gather(*asking)
