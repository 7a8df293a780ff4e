from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Never

import pytest

from adapter_registry.service.pool import Pool


class Resource:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(1, "test")
    yield pool
    pool.close()


async def test_a_job_runs_in_the_pool_and_its_error_is_raised(pool: Pool) -> None:
    assert await pool.run(lambda: threading.current_thread().name) == "test_0"
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 / 0)


async def test_a_cancelled_caller_waits_for_the_running_job(pool: Pool) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        go.wait(10)
        ended.set()

    caller = asyncio.create_task(pool.run(job))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):  # more than one cancellation, as a stopping server may send
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_a_cancelled_callers_job_that_has_not_begun_is_dropped(pool: Pool) -> None:
    go, ran = threading.Event(), threading.Event()
    first = asyncio.create_task(pool.run(go.wait, 10))
    second = asyncio.create_task(pool.run(ran.set))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go.set()
    await first
    await pool.run(int)
    assert not ran.is_set()


async def test_what_was_opened_is_closed_once_however_the_block_ends(pool: Pool) -> None:
    for error in (None, KeyError("x")):
        resource = Resource()
        try:
            async with pool.opened(lambda resource=resource: resource) as opened:
                assert opened is resource
                if error:
                    raise error
        except KeyError:
            pass
        assert resource.closed == 1


async def test_what_opens_while_its_caller_is_cancelled_is_closed(pool: Pool) -> None:
    begun, go, resource = threading.Event(), threading.Event(), Resource()

    def slow() -> Resource:
        begun.set()
        go.wait(10)
        return resource

    async def use() -> None:
        async with pool.opened(slow):
            raise AssertionError("never opened for a caller that is gone")

    caller = asyncio.create_task(use())
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert resource.closed == 1


async def test_what_fails_to_open_is_not_closed(pool: Pool) -> Never:
    with pytest.raises(ZeroDivisionError):
        async with pool.opened(lambda: 1 / 0):
            raise AssertionError("not opened")
