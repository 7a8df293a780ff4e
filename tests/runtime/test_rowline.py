"""Who waits for pool rows keeps out only those whom it is fair to keep out, and not for ever."""

import asyncio
import time
from pathlib import Path

import pytest

from compute_worker.runtime.api import Stop, Weighted
from compute_worker.runtime.rowline import RowLine, Ticket
from lorry.errors import CacheBusy
from tests.support.toy_world import World, call, eventually, running


async def waiting(world: World, *adapters: str, seconds: float = 60.0) -> asyncio.Task[object]:
    """A request that waits for rows."""
    line = world.runtime._held.pool._line._waiting
    before = len(line)
    request = call("hello", *adapters, deadline=time.monotonic() + seconds)
    task = asyncio.create_task(world.ask(request))
    await eventually(lambda: len(line) > before)
    return task


async def test_who_cannot_be_placed_beside_a_route_keeps_nobody_out(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for name, rank in (("kept", 2), ("large", 16), ("small", 2)):
            world.registry.add(name, rank=rank)
        await world.switch("prod", (Weighted("kept"),), None)
        large = await waiting(world, "large")

        await asyncio.wait_for(world.ask(call("hello", "small")), 5)

        await world.switch("prod", (), 1)  # nothing holds it now
        await large


async def test_nor_beside_a_pin_and_has_its_turn_once_that_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for name, rank in (("kept", 2), ("large", 16), ("small", 2)):
            world.registry.add(name, rank=rank)
        await world.runtime.pin("kept")
        large = await waiting(world, "large", seconds=0.5)
        await asyncio.wait_for(world.ask(call("hello", "small")), 5)
        with pytest.raises(CacheBusy):
            await large

        again = await waiting(world, "large")
        await world.runtime.pin("kept", unpin=True)
        await again


async def test_a_turn_lasts_as_long_as_patience_whatever_the_deadline(tmp_path: Path) -> None:
    async with running(tmp_path, default_wait=0.3) as world:
        for name, rank in (("used", 2), ("large", 16), ("small", 2)):
            world.registry.add(name, rank=rank)
        world.engine.running.clear()
        holding = asyncio.create_task(world.ask(call("busy", "used", stop=Stop(4, ignore_eos=True))))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        large = await waiting(world, "large")
        small = await waiting(world, "small")

        await eventually(lambda: len(world.engine.installs) == 2)  # though nothing has ended

        world.engine.running.set()
        await asyncio.gather(holding, large, small)


async def test_what_asks_for_rows_on_no_requests_behalf_lets_requests_go_first(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for name in ("held", "x"):
            world.registry.add(name, rank=16)
        world.engine.running.clear()
        holding = asyncio.create_task(world.ask(call("hello", "held")))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        line = world.runtime._held.pool._line
        works = (
            world.runtime.load("x"),
            world.runtime.pin("x"),
            world.switch("prod", (Weighted("x"),), None),
        )
        asking = [asyncio.create_task(work) for work in works]
        await eventually(lambda: [ticket.patient for ticket in line._waiting] == [True] * len(works))
        world.engine.running.set()
        await asyncio.gather(holding, *asking)


async def test_a_load_comes_before_requests_once_it_has_let_them_go_first() -> None:
    served = {"": 0, "light": 1, "heavy": 5}
    line, now = RowLine(served.__getitem__), time.monotonic()
    load, more = (Ticket("", now - 1, now + 60, patient=True) for _ in range(2))
    requests = [Ticket(tenant, now - 2, now + 60) for tenant in ("heavy", "light")]
    for ticket in (*requests, load, more):
        line.join(ticket)
    order = []
    for _ in range(4):
        first = next(ticket for ticket in (*requests, load, more) if line.is_first(ticket))
        order.append(first.tenant)
        line.leave(first)
        line.granted(first)
    assert order == ["", "light", "heavy", ""]
