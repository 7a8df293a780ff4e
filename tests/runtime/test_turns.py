"""Whose turn it is, through the whole runtime: tenants, priorities, and how long a request waits to begin."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compute_worker.contract import EngineLimits
from compute_worker.runtime.api import GenerateCall, Stop
from compute_worker.runtime.rights import Rights, acting
from lorry.errors import CacheBusy, DeadlineExceeded, QueueFull
from tests.support.toy_world import World, call, eventually, running

ENDLESS = Stop(max_new_tokens=100, ignore_eos=True)


@asynccontextmanager
async def one_at_a_time(folder: Path, **settings: object) -> AsyncIterator[tuple[World, asyncio.Task[object]]]:
    """A world with a batch of one, in which something runs and stands still."""
    async with running(folder, max_batch=1, **settings) as world:
        world.engine.running.clear()
        first = asyncio.create_task(world.ask(call("first", stop=ENDLESS)))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        yield world, first
        world.engine.running.set()
        await first


async def ends(world: World, *calls: GenerateCall) -> list[int]:
    """The order in which these end, once the engine goes on."""
    order: list[int] = []

    async def ask(n: int, request: GenerateCall) -> None:
        await world.ask(request)
        order.append(n)

    asked = [asyncio.create_task(ask(n, request)) for n, request in enumerate(calls)]
    await eventually(lambda: world.runtime._loop._inbox.qsize() == len(calls))
    world.engine.running.set()
    await asyncio.gather(*asked)
    return order


async def test_a_tenant_that_comes_new_is_served_before_the_rest_of_a_busy_one(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path) as (world, _):
        busy = [call(f"busy {n}", tenant="busy", stop=ENDLESS) for n in range(3)]
        order = await ends(world, *busy, call("new", tenant="new"))
    assert order.index(3) == 1


async def test_pool_rows_go_to_the_tenant_that_was_served_least(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for name in ("a", "b", "c", "d", "e"):
            world.registry.add(name, rank=world.engine.limits.pool_rows)  # one of them at a time
        order: list[str] = []

        async def ask(name: str, tenant: str) -> None:
            await world.ask(call("hello", name, tenant=tenant))
            order.append(name)

        world.engine.running.clear()
        asked = [asyncio.create_task(ask("a", "busy"))]
        await eventually(lambda: world.budget("kv_tokens") > 0)
        asked += [asyncio.create_task(ask(name, "busy")) for name in "bcd"]
        await eventually(lambda: len(world.runtime._held.pool._line._waiting) == 3)
        asked.append(asyncio.create_task(ask("e", "new")))
        await eventually(lambda: len(world.runtime._held.pool._line._waiting) == 4)
        world.engine.running.set()
        await asyncio.gather(*asked)
    assert order[:2] == ["a", "e"]


async def test_priority_orders_a_tenant_s_own_requests(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path) as (world, _):
        calls = [call(f"{n}", tenant="t", priority=priority) for n, priority in enumerate((-3, 0, 10))]
        assert await ends(world, *calls) == [2, 1, 0]


async def test_who_shows_credentials_cannot_be_somebody_else(tmp_path: Path) -> None:
    async with running(tmp_path, queue=2) as world:
        world.engine.running.clear()
        held = world.registry.hold(world.registry.add("slow"))
        waiting = []
        with acting(Rights({"*": 3}, "ann")):
            waiting.append(asyncio.create_task(world.ask(call("a", "slow", tenant="one"))))
            await eventually(lambda: world.budget("queue") == 1)
            with pytest.raises(QueueFull):
                await world.ask(call("b", "slow", tenant="two"))
        with acting(Rights({"*": 3}, "bob")):
            waiting.append(asyncio.create_task(world.ask(call("c", "slow", tenant="one"))))
            await eventually(lambda: world.budget("queue") == 2)
        held.set()
        world.engine.running.set()
        await asyncio.gather(*waiting)


async def test_a_greedy_tenant_leaves_places_in_the_queue(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path, queue=8) as (world, _):
        greedy = [asyncio.create_task(world.ask(call(f"{n}", tenant="greedy"))) for n in range(4)]
        await eventually(lambda: world.budget("queue") == 4)
        with pytest.raises(QueueFull, match="4 of this caller's") as refused:
            await world.ask(call(tenant="greedy"))
        assert refused.value.retryable
        small = asyncio.create_task(world.ask(call(tenant="small")))
        await eventually(lambda: world.budget("queue") == 5)
        world.engine.running.set()
        await asyncio.gather(small, *greedy)


async def test_what_has_not_begun_in_time_ends_typed_and_what_has_begun_goes_on(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path) as (world, _):
        with pytest.raises(CacheBusy, match="in time"):
            await world.ask(call("late", begin_within=0.05))
        gate = world.registry.hold(world.registry.add("slow"))
        with pytest.raises(DeadlineExceeded, match="before the deadline"):
            await world.ask(call("late", "slow", begin_within=0.05))
        gate.set()
        world.engine.running.set()
        await world.ask(call("in time"))
        world.engine.running.clear()
        begun = asyncio.create_task(world.ask(call("begun", begin_within=1.0)))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        await asyncio.sleep(1.1)
        world.engine.running.set()
        await begun


async def test_a_preempted_answer_is_told_as_if_nothing_had_happened(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=16, row_bytes=1, kv_blocks=16, block_tokens=4, max_context=64)
    async with running(tmp_path, limits=limits, max_batch=8) as world:
        requests = [call([n] * 5, stop=Stop(max_new_tokens=40), priority=n % 2, seed=n) for n in range(8)]
        replies = await asyncio.gather(*map(world.ask, requests))
        assert [reply.tokens for reply in replies] == [world.expected(request) for request in requests]
        assert world.runtime.figures().steps.preempted > 0
