"""The worker's client against a real worker over a tiny random model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from lorry.errors import (
    AdapterNotFound,
    AdapterPinned,
    DeadlineExceeded,
    InvalidCombination,
    InvalidInput,
    InvalidSelection,
    RevisionConflict,
    RouteNotFound,
)
from lorry.v1 import inference_pb2, residency_pb2
from tests.support.pair import Pair, running_pair
from tests.support.worker import save_model

# Longer than any test waits: a generation that only a cancel ends.
ENDLESS = 8_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest_asyncio.fixture
async def pair(tmp_path: Path, model: Path) -> AsyncIterator[Pair]:
    async with running_pair(tmp_path, model) as pair:
        for name in ("pirate", "json"):
            await pair.publish(name)
        yield pair


async def eventually_idle(pair: Pair) -> bool:
    async with asyncio.timeout(20):
        while not await pair.idle():  # noqa: ASYNC110 - the worker is far away
            await asyncio.sleep(0.02)
    return True


async def test_a_generation_tells_what_serves_it_then_text_then_its_end(pair: Pair) -> None:
    asked = pair.worker.generate("hello", adapters=["pirate", ("json", 0.5)], max_new_tokens=4, ignore_eos=True)
    messages = [message async for message in asked]
    first, last = messages[0].started, messages[-1].finished
    assert [(a.adapter, a.weight) for a in first.adapters] == [("pirate", 1), ("json", 0.5)]
    assert (last.reason, last.completion_tokens) == (inference_pb2.FINISH_REASON_LENGTH, 4)
    assert sum(len(m.delta.token_ids) for m in messages) == 4


async def test_text_is_the_whole_answer(pair: Pair) -> None:
    asked = {"adapters": {"pirate": 1.0}, "max_new_tokens": 5}
    streamed = [m.delta.text async for m in pair.worker.generate(messages=[("user", "hi")], **asked)]
    assert await pair.worker.generate(messages=[("user", "hi")], **asked).text() == "".join(streamed)


async def test_a_loop_that_is_left_gives_everything_back(pair: Pair) -> None:
    async with pair.worker.generate("hello", max_new_tokens=ENDLESS, ignore_eos=True) as answer:
        async for message in answer:
            if message.HasField("delta"):
                break
    assert await eventually_idle(pair)


async def test_a_task_that_is_cancelled_cancels_its_generation(pair: Pair) -> None:
    task = asyncio.create_task(pair.worker.generate("hello", max_new_tokens=ENDLESS, ignore_eos=True).text())
    async with asyncio.timeout(20):
        while await pair.idle():  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await eventually_idle(pair)


async def test_a_generation_ends_at_its_deadline(pair: Pair) -> None:
    with pytest.raises(DeadlineExceeded):
        await pair.worker.generate("hello", max_new_tokens=ENDLESS, ignore_eos=True, timeout=0.2).text()


async def test_what_the_worker_refuses_is_raised_by_its_class(pair: Pair) -> None:
    with pytest.raises(AdapterNotFound):
        await pair.worker.generate("hello", adapters="nobody").text()
    with pytest.raises(RouteNotFound):
        await pair.worker.route("nowhere")
    with pytest.raises(InvalidCombination):
        await pair.worker.combine(["pirate", "json"], "ties", density=2)


async def test_a_route_is_switched_by_compare_and_swap(pair: Pair) -> None:
    made = await pair.worker.switch({"pirate": 0.5}, route="tour", expected_revision=0)
    with pytest.raises(RevisionConflict):
        await pair.worker.switch([], route="tour", expected_revision=0)
    assert (await pair.worker.route("tour")).adapters[0].weight == 0.5
    await pair.worker.switch([], route="tour", expected_revision=made.revision)
    assert list((await pair.worker.route("tour")).adapters) == []
    assert [route.name async for route in pair.worker.routes()] == ["default", "tour"]


async def test_shares_are_changed_without_writing_the_branches_anew(pair: Pair) -> None:
    made = await pair.worker.split({"control": (0.9, "pirate"), "canary": (0.1, {"json": 0.5})}, route="tour")
    shared = await pair.worker.share({"canary": 0.3}, route="tour")
    assert [(t.name, t.share) for t in shared.targets] == [("control", 0.9), ("canary", 0.3)]
    assert [t.adapters for t in shared.targets] == [t.adapters for t in made.targets]
    with pytest.raises(InvalidSelection, match="control, canary"):
        await pair.worker.share({"carrion": 1}, route="tour")


async def test_an_interpolation_is_the_weighted_pairs_along_the_line(pair: Pair) -> None:
    asked = {"max_new_tokens": 6, "ignore_eos": True}
    points = await pair.worker.interpolate("pirate", "json", "hello", steps=3, **asked)
    assert [point.position for point in points] == [0, 0.5, 1]
    assert [point.weights for point in points] == [{"pirate": 1}, {"pirate": 0.5, "json": 0.5}, {"json": 1}]
    for point in points:
        assert point.text == await pair.worker.generate("hello", adapters=point.weights, **asked).text()


async def test_an_interpolation_draws_with_one_seed(pair: Pair) -> None:
    drawn = {"temperature": 1.5, "max_new_tokens": 8, "ignore_eos": True, "seed": 7}
    points = await pair.worker.interpolate("pirate", "json", "hello", steps=2, **drawn)
    assert points[0].text == await pair.worker.generate("hello", adapters="pirate", **drawn).text()


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"steps": 65}, {"adapters": "pirate"}, {"route": "tour"}])
async def test_an_interpolation_that_makes_no_sense_is_refused(pair: Pair, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await pair.worker.interpolate("pirate", "json", "hello", **wrong)
    with pytest.raises(AdapterNotFound):
        await pair.worker.interpolate("pirate", "nobody", "hello")
    assert await eventually_idle(pair)


async def test_residency_is_loaded_pinned_and_dropped(pair: Pair) -> None:
    loaded = await pair.worker.load("pirate")
    assert (loaded.tier, loaded.rank) == (residency_pb2.TIER_POOL, 2)
    assert (await pair.worker.pin("pirate", ttl=timedelta(hours=1))).pinned
    with pytest.raises(AdapterPinned):
        await pair.worker.unload("pirate")
    assert not (await pair.worker.unpin("pirate")).pinned
    assert [resident.digest async for resident in pair.worker.residents()] == [loaded.digest]
    assert (await pair.worker.unload("pirate")).was_resident
    assert not (await pair.worker.unload("pirate")).was_resident


async def test_a_watch_tells_the_state_and_then_the_changes(pair: Pair) -> None:
    pirate = await pair.worker.load("pirate")
    events = pair.worker.watch()
    async with asyncio.timeout(20):
        state = await anext(events)
        json = await pair.worker.load("json")
        while (change := await anext(events)).initial or change.resident.digest != json.digest:
            pass
    await events.aclose()
    assert (state.initial, state.resident.digest) == (True, pirate.digest)


async def test_a_combination_is_published_by_keyword(pair: Pair) -> None:
    made = await pair.worker.combine({"pirate": 1, "json": 0.5}, "ties", density=0.5, publish="mix", alias="prod")
    published = await pair.registry.resolve("mix:prod")
    assert made.version.digest == published.digest
    assert published.manifest.recipe.method == "ties"
    assert len(published.manifest.parents) == 2


async def test_capabilities_name_the_base_that_is_served(pair: Pair) -> None:
    known = await pair.worker.capabilities()
    assert known.base_id == pair.serving.engine.base.base_id
    assert "ties" in known.combine_methods
