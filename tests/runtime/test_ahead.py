"""Adapters that are brought nearer before a request needs them, and memory that is had before."""

import asyncio
import time
from pathlib import Path

import pytest

from compute_worker.runtime.api import Stop, Tier
from lorry.errors import IncompatibleAdapter, InvalidAdapter
from lorry.format.digest import digest_of
from tests.support.adapters import adapter_bytes
from tests.support.toy_engine import MODULE, WIDTH
from tests.support.toy_world import World, call, eventually, running


async def test_onto_the_disk_takes_no_memory_and_no_rows(world: World) -> None:
    published = world.registry.add("a", rank=3)
    state = await world.runtime.load("a", Tier.DISK)
    assert (state.digest, state.tier, state.rank, state.loads) == (published.digest, Tier.DISK, 3, 0)
    assert (world.engine.reads, world.budget("host_bytes"), world.budget("pool_rows")) == (0, 0, 0)


async def test_into_host_memory_takes_no_rows(world: World) -> None:
    world.registry.add("a", rank=3)
    assert (await world.runtime.load("a", Tier.HOST)).tier is Tier.HOST
    assert (world.engine.reads, world.budget("pool_rows")) == (1, 0)
    assert world.budget("host_bytes") > 0


@pytest.mark.parametrize("tier", [Tier.DISK, Tier.HOST])
async def test_a_request_goes_on_from_there(world: World, tier: Tier) -> None:
    published = world.registry.add("a")
    await world.runtime.load("a", tier)
    request = call("hello", "a")
    assert (await world.ask(request)).tokens == world.expected(request, (published, 1.0))
    assert (world.engine.reads, set(world.registry.fetched.values())) == (1, {1})


@pytest.mark.parametrize("tier", [Tier.DISK, Tier.HOST])
async def test_what_is_nearer_stays_where_it_is(world: World, tier: Tier) -> None:
    world.registry.add("a")
    await world.runtime.load("a")
    assert (await world.runtime.load("a", tier)).tier is Tier.POOL
    assert world.engine.reads == 1


async def test_where_host_memory_has_no_room_it_comes_to_the_disk(tmp_path: Path) -> None:
    async with running(tmp_path, host_bytes=0) as world:
        world.registry.add("a")
        assert (await world.runtime.load("a", Tier.HOST)).tier is Tier.DISK


async def test_what_was_brought_is_there_after_a_restart_without_the_registry(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        published = world.registry.add("a")
        registry = world.registry
        await world.runtime.load("a", Tier.DISK)
    async with running(tmp_path, registry=registry) as world:
        registry.down = True
        assert (await world.ask(call("hello", f"a@{published.digest}"))).tokens


@pytest.mark.parametrize("tier", [Tier.DISK, Tier.HOST])
async def test_the_guard_stands_before_every_tier(world: World, tier: Tier) -> None:
    world.registry.add("foreign", base_id=digest_of(b"another"))
    with pytest.raises(IncompatibleAdapter, match="published for base"):
        await world.runtime.load("foreign", tier)
    config, weights = adapter_bytes({MODULE: (WIDTH, WIDTH, 2)})
    world.registry.add_bytes("nan", config, weights[:-4] + b"\xff\xff\xff\x7f")
    with pytest.raises(InvalidAdapter, match="finite"):
        await world.runtime.load("nan", tier)
    assert world.runtime.residents() == []


async def test_memory_for_kv_is_had_ahead_once_nothing_runs(world: World) -> None:
    blocks = world.runtime._scheduler.blocks
    world.engine.step_seconds = 0.01
    long = call("hello", stop=Stop(max_new_tokens=30, ignore_eos=True))
    asked = asyncio.create_task(world.ask(long))
    await eventually(lambda: len(world.engine.steps) > 20)
    assert world.engine.extended == 0
    await asked
    await eventually(lambda: world.engine.extended == blocks.expected)
    assert blocks.expected > blocks.needed(30)


async def test_a_request_does_not_wait_for_memory_that_is_had_ahead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(blocks: int) -> bool:
        world.engine.extended = blocks
        time.sleep(0.001)
        return True

    monkeypatch.setattr(world.engine, "extend", endless)
    assert (await world.ask(call("hello"))).tokens
    assert (await world.ask(call("hello again"))).tokens
    assert world.engine.extended > 0
