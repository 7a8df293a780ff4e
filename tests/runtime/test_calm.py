"""What is put off until it is calm."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from compute_worker.runtime import calm
from compute_worker.runtime.calm import Calm
from tests.support.toy_world import eventually


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    monkeypatch.setattr(calm, "CALM_SECONDS", 0.05)
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_what_is_put_off_again_is_done_once_and_as_it_was_said_last(executor: ThreadPoolExecutor) -> None:
    done: list[str] = []
    work = Calm(executor)
    work.then(partial(done.append, "first"))
    work.then(partial(done.append, "second"))
    assert done == []
    await eventually(lambda: bool(done))
    await asyncio.sleep(0.1)
    assert done == ["second"]


async def test_nothing_is_done_behind_the_end(executor: ThreadPoolExecutor) -> None:
    done: list[str] = []
    work = Calm(executor)
    work.then(partial(done.append, "late"))
    work.close()
    await asyncio.sleep(0.1)
    assert done == []
