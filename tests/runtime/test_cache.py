"""The tiers: what is loaded once, what is kept, who has to go and who never goes."""

import asyncio
import time
from pathlib import Path

import pytest

from compute_worker.runtime.api import ResidentState, Stop, Tier, Weighted
from lorry.errors import (
    AdapterInUse,
    AdapterPinned,
    CacheBusy,
    DeviceUnavailable,
    DigestMismatch,
    IncompatibleAdapter,
    InvalidAdapter,
    InvalidInput,
    InvalidSelection,
    RequestTooLarge,
)
from lorry.format.digest import digest_of
from tests.support.adapters import adapter_bytes
from tests.support.toy_engine import LIMITS, MODULE, WIDTH
from tests.support.toy_world import World, call, eventually, running


def tiers(world: World) -> dict[str, Tier]:
    """The last name of each adapter that is held, and its tier."""
    return {state.names[0]: state.tier for state in world.runtime.residents()}


async def busy(world: World, *adapters: str) -> asyncio.Task[object]:
    """A request that uses the adapters and stands still until world.engine.running is set."""
    world.engine.running.clear()
    used = world.budget("kv_tokens")
    task = asyncio.create_task(world.ask(call("busy", *adapters, stop=Stop(4, ignore_eos=True))))
    await eventually(lambda: world.budget("kv_tokens") > used)
    return task


async def test_an_adapter_is_loaded_once_however_many_ask(world: World) -> None:
    published = world.registry.add("one")
    await asyncio.gather(*(world.ask(call(f"prompt {n}", "one")) for n in range(12)))
    assert set(world.registry.fetched.values()) == {1}
    assert (world.engine.reads, len(world.engine.installs)) == (1, 1)
    state = world.runtime.residents()[0]
    assert (state.digest, state.tier, state.rank, state.loads) == (published.digest, Tier.POOL, 2, 1)


async def test_a_load_tells_what_is_resident(world: World) -> None:
    world.registry.add("one", rank=3, rslora=True)
    state = await world.runtime.load("one")
    assert (state.tier, state.rank, state.size, state.variant, state.leases) == (Tier.POOL, 3, 300, "rslora", 0)
    again = await world.runtime.load("one@1")
    assert (again.names, again.hits, again.loads) == (("one@1", "one"), 1, 1)


async def test_the_least_recently_used_leaves_the_pool_and_comes_back_from_host_memory(world: World) -> None:
    for name in ("a", "b", "c"):
        world.registry.add(name, rank=6)
        await world.runtime.load(name)
    assert tiers(world) == {"c": Tier.POOL, "b": Tier.POOL, "a": Tier.HOST}
    request = call("hello", "a")
    reply = await world.ask(request)
    assert reply.tokens == world.expected(request, (await world.registry.resolve("a"), 1.0))
    assert world.engine.reads == 3
    assert tiers(world) == {"a": Tier.POOL, "c": Tier.POOL, "b": Tier.HOST}


async def test_what_host_memory_cannot_keep_comes_back_from_disk(tmp_path: Path) -> None:
    async with running(tmp_path, host_bytes=0) as world:
        for name in ("a", "b", "c", "a"):
            world.registry.add(name, rank=6)
            await world.runtime.load(name)
        assert tiers(world)["b"] is Tier.DISK
        assert max(world.registry.fetched.values()) == 1
        assert world.engine.reads == 8  # once for the facts, once for the rows


async def test_host_memory_keeps_its_budget(tmp_path: Path) -> None:
    async with running(tmp_path, host_bytes=5000) as world:
        for name in ("a", "b", "c", "d", "e", "f"):
            world.registry.add(name, rank=6)
            await world.runtime.load(name)
            assert world.budget("host_bytes") <= 5000


async def test_an_adapter_that_leaves_the_disk_too_is_gone_and_fetched_again(tmp_path: Path) -> None:
    async with running(tmp_path, host_bytes=0, disk_bytes=8000) as world:
        for name in ("a", "b", "c", "d"):
            world.registry.add(name, rank=6)
            await world.runtime.load(name)
        assert set(tiers(world)) < {"a", "b", "c", "d"}
        request = call("hello", "a")
        assert (await world.ask(request)).tokens == world.expected(request, (await world.registry.resolve("a"), 1.0))


async def test_what_a_request_uses_is_never_evicted(world: World) -> None:
    for name in ("a", "b", "c"):
        world.registry.add(name, rank=6)
    request = await busy(world, "a")
    await world.runtime.load("b")
    await world.runtime.load("c")
    assert tiers(world) == {"c": Tier.POOL, "b": Tier.HOST, "a": Tier.POOL}
    assert world.runtime.residents()[-1].leases == 1
    world.engine.running.set()
    await request


async def test_everything_in_use_makes_the_next_wait_and_then_go_on(world: World) -> None:
    world.registry.add("a", rank=12)
    world.registry.add("b", rank=12)
    first = await busy(world, "a")
    second = asyncio.create_task(world.ask(call("hello", "b")))
    await asyncio.sleep(0.02)
    assert not second.done()
    world.engine.running.set()
    await asyncio.gather(first, second)


@pytest.mark.parametrize("deadline", [None, 0.05])
async def test_everything_in_use_until_the_deadline_is_busy(tmp_path: Path, deadline: float | None) -> None:
    async with running(tmp_path, default_wait=0.05 if deadline is None else 60.0) as world:
        world.registry.add("a", rank=12)
        world.registry.add("b", rank=12)
        first = await busy(world, "a")
        await world.registry.resolve("b")
        limit = None if deadline is None else time.monotonic() + deadline
        with pytest.raises(CacheBusy, match="every row of the pool"):
            await world.ask(call("hello", "b", deadline=limit))
        world.engine.running.set()
        await first


async def test_those_who_need_several_adapters_cannot_wait_for_each_other(world: World) -> None:
    names = [f"n{n}" for n in range(6)]
    for name in names:
        world.registry.add(name, rank=7)
    pairs = [(a, b) for a in names for b in names if a < b]
    await asyncio.gather(*(world.ask(call("hello", *pair)) for pair in pairs))


async def test_a_selection_beyond_the_pool_is_refused(world: World) -> None:
    world.registry.add("huge", rank=LIMITS.pool_rows + 1)
    with pytest.raises(RequestTooLarge, match="the pool has 16 rows, the selection needs 17"):
        await world.ask(call("hello", "huge"))
    world.registry.add("a", rank=9)
    world.registry.add("b", rank=8)
    with pytest.raises(RequestTooLarge):
        await world.ask(call("hello", "a", "b"))


async def test_dora_stands_alone_and_unweighted(world: World) -> None:
    world.registry.add("dora", dora=True)
    world.registry.add("other")
    with pytest.raises(InvalidSelection, match="no other adapter beside it"):
        await world.ask(call("hello", "dora", "other"))
    with pytest.raises(InvalidSelection, match=r"expected weight 1, got 0\.5"):
        await world.ask(call("hello", Weighted("dora", 0.5)))
    await world.ask(call("hello", "dora"))


async def test_a_pinned_adapter_stays_until_it_is_let_go(world: World) -> None:
    for name in ("a", "b", "c"):
        world.registry.add(name, rank=6)
    assert (await world.runtime.pin("a")).pinned
    await world.runtime.load("b")
    await world.runtime.load("c")
    assert tiers(world)["a"] is Tier.POOL
    with pytest.raises(AdapterPinned, match="unpin it first"):
        await world.runtime.unload("a")
    assert not (await world.runtime.pin("a", unpin=True)).pinned
    await world.runtime.load("b")
    assert tiers(world)["a"] is Tier.HOST


async def test_a_pin_ends_with_its_time_and_whoever_waited_goes_on(world: World) -> None:
    world.registry.add("a", rank=12)
    world.registry.add("b", rank=12)
    await world.runtime.pin("a", ttl=0.05)
    await world.runtime.load("b")
    assert tiers(world) == {"b": Tier.POOL, "a": Tier.HOST}


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_pin_without_a_time_that_can_be_is_refused(world: World, ttl: float) -> None:
    with pytest.raises(InvalidInput, match="ttl"):
        await world.runtime.pin("a", ttl=ttl)


async def test_letting_go_of_what_is_not_here_is_nothing(world: World) -> None:
    world.registry.add("a")
    state: ResidentState = await world.runtime.pin("a", unpin=True)
    assert (state.tier, state.pinned) == (Tier.GONE, False)
    assert world.runtime.residents() == []


async def test_an_unload_waits_for_requests_and_drops_pool_and_host(world: World) -> None:
    published = world.registry.add("a")
    request = await busy(world, "a")
    unload = asyncio.create_task(world.runtime.unload("a"))
    await asyncio.sleep(0.02)
    assert not unload.done()
    world.engine.running.set()
    assert await unload == (published.digest, True)
    await request
    assert tiers(world) == {"a": Tier.DISK}
    assert await world.runtime.unload("a") == (published.digest, False)
    assert (world.budget("pool_rows"), world.budget("host_bytes")) == (0, 0)


async def test_an_unload_gives_up_where_the_use_does_not_end(tmp_path: Path) -> None:
    async with running(tmp_path, default_wait=0.05) as world:
        world.registry.add("a")
        request = await busy(world, "a")
        with pytest.raises(AdapterInUse, match="1 requests still use"):
            await world.runtime.unload("a")
        world.engine.running.set()
        await request


async def test_an_install_that_fails_leaves_nothing_behind(world: World) -> None:
    bad = world.registry.add("bad")
    world.engine.unreadable.add(world.registry.content(bad))
    for _ in range(3):
        with pytest.raises(DeviceUnavailable, match="did not take"):
            await world.ask(call("hello", "bad"))
    assert world.budget("pool_rows") == 0
    assert tiers(world) == {"bad": Tier.HOST}
    world.engine.unreadable.clear()
    await world.ask(call("hello", "bad"))


async def test_wrong_bytes_are_refused_and_right_ones_taken_later(world: World) -> None:
    published = world.registry.add("a")
    digest = world.registry.weights(published).digest
    world.registry.corrupt.add(digest)
    with pytest.raises(DigestMismatch):
        await world.ask(call("hello", "a"))
    assert world.runtime.residents() == []
    world.registry.corrupt.clear()
    await world.ask(call("hello", "a"))


async def test_an_adapter_of_another_base_is_refused_before_it_is_pulled(world: World) -> None:
    world.registry.add("foreign", base_id=digest_of(b"another"))
    with pytest.raises(IncompatibleAdapter, match="published for base"):
        await world.ask(call("hello", "foreign"))
    assert world.registry.fetched.total() == 0


async def test_the_guard_refuses_what_the_registry_let_through(world: World) -> None:
    config, weights = adapter_bytes({MODULE: (WIDTH, WIDTH, 2)})
    world.registry.add_bytes("nan", config, weights[:-4] + b"\xff\xff\xff\x7f")
    with pytest.raises(InvalidAdapter, match="finite"):
        await world.runtime.load("nan")
    world.registry.add_bytes("misfit", *adapter_bytes({"model.layers.9.up_proj": (WIDTH, WIDTH, 2)}))
    with pytest.raises(IncompatibleAdapter, match="UNKNOWN_MODULE"):
        await world.runtime.load("misfit")
    assert world.runtime.residents() == []
    assert world.engine.reads == 0


async def test_loading_does_not_stall_the_running_batch(world: World) -> None:
    world.registry.add("slow")
    world.engine.installing.clear()
    load = asyncio.create_task(world.runtime.load("slow"))
    await eventually(lambda: world.engine.reads == 1)
    for n in range(3):
        await world.ask(call(f"prompt {n}"))
    assert not load.done()
    world.engine.installing.set()
    await load


async def test_an_idle_adapter_that_stays_is_moved_where_it_splits_the_room(world: World) -> None:
    for name, rank in (("a", 6), ("held", 2), ("wide", 13)):
        world.registry.add(name, rank=rank)
    await world.runtime.load("a")
    await world.runtime.pin("held")  # behind a: rows 6 and 7 of 16
    await world.runtime.load("wide")
    await eventually(lambda: tiers(world) == {"wide": Tier.POOL, "held": Tier.POOL, "a": Tier.HOST})
    request = call("hello", "held")
    assert (await world.ask(request)).tokens == world.expected(request, (await world.registry.resolve("held"), 1.0))
