"""Tokens that may wait for each other: fewer messages, the same answer, and nothing later than it has to be."""

import time
from collections.abc import Sequence

import pytest

from compute_worker.contract import Computed, StepRow
from compute_worker.runtime.api import Delta, Finished, GenerateCall, Started, Stop
from lorry.errors import DeadlineExceeded
from tests.support.toy_wording import ToyTokenizer
from tests.support.toy_world import World, call, prompt_without_eos

MANY = 1000  # more than any answer has


async def items_of(world: World, request: GenerateCall) -> list[Started | Delta | Finished]:
    return [item async for item in world.runtime.generate(request)]


async def test_as_many_tokens_as_were_asked_for_come_together(world: World) -> None:
    request = call(prompt_without_eos(12), stream_interval=5)
    first, *deltas = [item for item in await items_of(world, request) if isinstance(item, Delta)]
    assert [drawn.token for delta in (first, *deltas) for drawn in delta.drawn] == world.expected(request)
    # The first may come with the news that the request runs.
    assert all(len(delta.drawn) >= 5 for delta in deltas[:-1])
    assert len(deltas) <= 3


async def test_a_whole_answer_is_the_text_that_a_stream_has(world: World) -> None:
    streamed = await world.ask(call(prompt_without_eos(40), max_new=40))
    _, *deltas, finished = await items_of(world, call(prompt_without_eos(40), max_new=40, stream_interval=MANY))
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == streamed.text
    assert len(deltas) <= 2
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.completion_tokens) == (streamed.finished.reason, 40)


async def test_a_stop_string_ends_the_text_at_once_also_where_nobody_reads_along(world: World) -> None:
    text = prompt_without_eos(60)
    stop = ToyTokenizer().decode(world.expected(call(text, max_new=60)))[4:6]
    conditions = Stop(max_new_tokens=60, strings=(stop,))
    world.engine.step_seconds = 0.005  # so that the caller's side keeps up
    streamed = await world.ask(call(text, stop=conditions))
    steps = len(world.engine.steps)
    whole = await world.ask(call(text, stop=conditions, stream_interval=MANY))
    assert whole.text == streamed.text
    assert whole.finished.completion_tokens == streamed.finished.completion_tokens < 20
    assert len(world.engine.steps) - steps < 30


async def test_what_was_drawn_before_a_deadline_comes_also_where_nobody_reads_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = world.engine.step

    def step_and_wait(rows: Sequence[StepRow]) -> list[Computed]:
        computed = step(rows)
        if len(world.engine.steps) == 3:
            world.engine.running.clear()
        return computed

    monkeypatch.setattr(world.engine, "step", step_and_wait)
    request = call(deadline=time.monotonic() + 0.5, stream_interval=MANY, stop=Stop(100, ignore_eos=True))
    before: list[Delta] = []
    with pytest.raises(DeadlineExceeded):  # noqa: PT012 - what came before counts
        async for item in world.runtime.generate(request):
            before += [item] if isinstance(item, Delta) else []
    world.engine.running.set()
    assert 3 <= sum(len(delta.drawn) for delta in before) < 100
    assert len(before) <= 2
