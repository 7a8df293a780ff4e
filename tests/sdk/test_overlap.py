from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from lorry.overlap import ahead, behind, ended, whole


async def numbers(count: int, end: Exception | None = None) -> AsyncIterator[int]:
    for number in range(count):
        yield number
    if end is not None:
        raise end


class Fetching:
    def __init__(self, count: int) -> None:
        self.begun = 0
        self._count = count

    async def __call__(self) -> int | None:
        if self.begun == self._count:
            return None
        self.begun += 1
        return self.begun - 1


async def test_the_next_is_fetched_while_one_is_with_the_caller() -> None:
    fetching = Fetching(3)
    seen = []
    async for item in ahead(fetching):
        await asyncio.sleep(0)
        seen.append((item, fetching.begun))
    assert seen == [(0, 2), (1, 3), (2, 3)]


async def test_a_fetch_that_runs_is_waited_for_when_the_caller_leaves() -> None:
    running, may_end, ended = asyncio.Event(), asyncio.Event(), []

    async def fetch() -> int:
        if not running.is_set():
            running.set()
            return 0
        await may_end.wait()
        ended.append(1)
        return 1

    async with aclosing(ahead(fetch)) as items:
        assert await anext(items) == 0
        asyncio.get_running_loop().call_later(0, may_end.set)
    assert ended == [1]


async def test_work_is_done_in_order_one_behind() -> None:
    done: list[int] = []

    async def work(item: int) -> None:
        await asyncio.sleep(0)
        done.append(item)

    await behind(work, numbers(5))
    assert done == [0, 1, 2, 3, 4]


async def test_where_the_items_break_the_work_on_those_before_is_done() -> None:
    done: list[int] = []

    async def work(item: int) -> None:
        await asyncio.sleep(0.01)
        done.append(item)

    with pytest.raises(ConnectionError):
        await behind(work, numbers(3, ConnectionError()))
    assert done == [0, 1, 2]


async def test_work_that_failed_is_told_rather_than_the_break_behind_it() -> None:
    async def work(item: int) -> None:
        if item == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await behind(work, numbers(3, ConnectionError()))
    with pytest.raises(ZeroDivisionError):
        await behind(work, numbers(9))


async def test_work_that_runs_is_waited_for_when_the_caller_is_cancelled() -> None:
    began, done = asyncio.Event(), []

    async def work(item: int) -> None:
        began.set()
        await asyncio.sleep(0.01)
        done.append(item)

    task = asyncio.create_task(behind(work, numbers(9)))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [0]


async def test_whoever_is_cancelled_while_it_waits_for_an_end_is_cancelled_behind_it() -> None:
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    said = []

    async def wait() -> None:
        await ended(outcome)
        said.append("goes on")

    waiting = asyncio.create_task(wait())
    for _ in range(2):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    outcome.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert said == []


async def test_what_must_not_stop_halfway_is_done_before_its_caller_is_cancelled() -> None:
    may_end, done = asyncio.Event(), []

    async def work() -> None:
        await may_end.wait()
        done.append(1)

    caller = asyncio.create_task(whole(work()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done == [1]


async def test_what_is_done_whole_gives_its_result_and_its_error() -> None:
    async def work(number: int) -> float:
        return 1 / number

    assert await whole(work(2)) == 0.5
    with pytest.raises(ZeroDivisionError):
        await whole(work(0))
