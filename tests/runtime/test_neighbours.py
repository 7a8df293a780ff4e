"""What one caller asks for takes its own time: texts, forms and merges of another do not wait behind all of it."""

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path

import pytest

from compute_worker.combination import CombineMethod
from compute_worker.contract import Drawn
from compute_worker.runtime import mailbox
from compute_worker.runtime.api import CombineCall, Weighted
from compute_worker.runtime.tokenizers import Desk
from compute_worker.runtime.waiting import Departures, Turns
from compute_worker.wording import Constraint, Form
from lorry.errors import Cancelled, Internal, LorryError, QueueFull
from tests.support.toy_engine import LIMITS, ToyEngine
from tests.support.toy_wording import ToyGuide
from tests.support.toy_world import World, call, eventually, running

DRY = CombineMethod("cat")


async def test_whoever_asks_often_waits_behind_himself() -> None:
    desk, order = Desk("lorry-test"), list[str]()
    try:
        many = [asyncio.create_task(desk.run("many", lambda: order.append("many"))) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.gather(*many, desk.run("few", lambda: order.append("few")))
    finally:
        desk.close()

    assert order.index("few") <= 2
    assert len(order) == 21


async def test_a_turn_is_given_back_by_who_gives_up() -> None:
    turns, held = Turns(), asyncio.Event()

    async def hold() -> None:
        async with turns.of("one"):
            await held.wait()

    async def wait() -> None:
        async with turns.of("one"):
            pass

    first, second = asyncio.create_task(hold()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await asyncio.wait_for(wait(), 5)


async def test_work_that_has_not_begun_is_given_up_with_the_last_who_asks_for_it() -> None:
    flight, gate, done = Departures[int](), asyncio.Event(), list[str]()

    async def work(name: str) -> int:
        await gate.wait()
        with flight.begun():
            done.append(name)
            await asyncio.sleep(0.01)
            return 1

    left = [asyncio.create_task(flight.run("left", lambda: work("left"))) for _ in range(2)]
    kept = asyncio.create_task(flight.run("kept", lambda: work("kept")))
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    again = asyncio.create_task(flight.run("left", lambda: work("again")))
    gate.set()

    assert await asyncio.gather(kept, again) == [1, 1]
    assert sorted(done) == ["again", "kept"]


async def test_work_that_has_begun_goes_on_whoever_leaves() -> None:
    flight, begun, done = Departures[None](), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        with flight.begun():
            begun.set()
            await asyncio.sleep(0.01)
            done.set()

    task = asyncio.create_task(flight.run("key", work))
    await begun.wait()
    task.cancel()

    await asyncio.wait_for(done.wait(), 5)


def dry(world: World, weight: float) -> asyncio.Task[object]:
    sources = (Weighted("one", weight), Weighted("two"))
    return asyncio.create_task(world.runtime.combine(CombineCall(sources, DRY, dry_run=True)))


async def test_merges_that_nobody_waits_for_are_not_made(world: World) -> None:
    for name in ("one", "two"):
        world.registry.add(name)
    combine, begun, gate = world.combiner.combine, threading.Event(), threading.Event()

    def slow(*args: object) -> None:
        begun.set()
        gate.wait(10)
        combine(*args)  # type: ignore[arg-type] # as they came

    world.combiner.combine = slow  # type: ignore[method-assign, assignment] # the same, later
    tasks = [dry(world, 1 + number / 8) for number in range(20)]
    await eventually(begun.is_set)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    other = dry(world, 7)
    gate.set()
    await other

    assert world.combiner.calls == 2


async def test_merges_that_wait_are_counted(world: World) -> None:
    for name in ("one", "two"):
        world.registry.add(name)
    results = await asyncio.gather(*(dry(world, 1 + number / 128) for number in range(128)), return_exceptions=True)

    assert sum(isinstance(result, QueueFull) for result in results) == 64
    assert not [result for result in results if isinstance(result, LorryError) and not isinstance(result, QueueFull)]


class Quick(ToyEngine):
    """Draws the same token always."""

    def step(self, rows: object) -> list[Drawn | None]:  # type: ignore[override] # whatever comes
        self.running.wait()
        return [Drawn(65) if row.sample else None for row in rows]  # type: ignore[attr-defined] # rows


async def test_an_answer_that_nobody_reads_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "UNREAD_SECONDS", 0.05)
    async with running(tmp_path) as world, aclosing(world.runtime.generate(call("hello"))) as answer:
        await anext(answer)
        await eventually(lambda: world.runtime.figures().running == 0)
        await asyncio.sleep(0.1)
        with pytest.raises(Cancelled, match="nobody read it"):
            [item async for item in answer]


async def test_who_left_by_a_step_is_not_failed_by_what_comes_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect in taking in one answer: its neighbour's end, in the same step, stands."""

    def fail(_: ToyGuide, token: int) -> None:
        raise RuntimeError(f"no {token}")

    monkeypatch.setattr(ToyGuide, "take", fail)
    engine = Quick(LIMITS)
    async with running(tmp_path, engine=engine) as world:
        engine.running.clear()
        plain = [asyncio.create_task(world.ask(call("aa", max_new=1))) for _ in range(2)]
        bound = asyncio.create_task(world.ask(call("bb", constraint=Constraint(Form.REGEX, "A+"))))
        await eventually(lambda: world.runtime.figures().running + world.budget("queue") == 3)
        engine.running.set()
        results = await asyncio.gather(*plain, bound, return_exceptions=True)

        assert isinstance(results.pop(), Internal)
        assert (await world.ask(call("later", max_new=1))).tokens == [65]


async def test_where_the_engines_thread_ends_everybody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as world:
        world.engine.running.clear()
        running_one = asyncio.create_task(world.ask(call("hello")))
        await eventually(lambda: world.budget("kv_tokens") > 0)

        def broken() -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(world.runtime._scheduler, "plan", broken)
        world.engine.running.set()
        with pytest.raises(Internal, match="the engine's thread has ended"):
            await running_one
        with pytest.raises(Internal, match="the engine's thread has ended"):
            await world.ask(call("later"))
        assert world.runtime.broken.is_set()
