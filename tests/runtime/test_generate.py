"""A generate call, from its first event to its last."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from compute_worker.contract import Computed, EngineLimits, Sampling, StepRow
from compute_worker.runtime.api import Delta, FinishReason, GenerateCall, Resolved, Started, Stop, Weighted
from lorry.errors import (
    CacheBusy,
    DeadlineExceeded,
    Draining,
    Internal,
    InvalidInput,
    PromptTooLong,
    QueueFull,
    RequestTooLarge,
)
from tests.support.toy_engine import BASE, LIMITS, reference
from tests.support.toy_wording import EOS, ToyTokenizer
from tests.support.toy_world import Reply, World, call, eventually, prompt_without_eos, running


def prompt_with_eos(new: int) -> str:
    return next(text for n in range(1000) if EOS in reference((text := f"prompt {n}").encode(), (), new)[1:])


async def test_the_base_answers_by_itself(world: World) -> None:
    request = call(prompt_without_eos(12))
    reply = await world.ask(request)
    assert reply.tokens == world.expected(request)
    assert reply.text == ToyTokenizer().decode(reply.tokens)
    assert reply.started.base_id == BASE.base_id
    assert reply.started.adapters == ()
    assert (reply.finished.reason, reply.finished.completion_tokens) == (FinishReason.LENGTH, 12)


async def test_adapters_change_the_answer_and_are_told_by_digest(world: World) -> None:
    one, two = world.registry.add("one"), world.registry.add("two", rank=4)
    request = call("hello", "one", Weighted("two", -0.5))
    reply = await world.ask(request)
    assert reply.tokens == world.expected(request, (one, 1.0), (two, -0.5)) != world.expected(request)
    assert reply.started.adapters == (Resolved("one", one.digest, 1.0), Resolved("two", two.digest, -0.5))
    assert reply.started.route == ""


async def test_an_end_of_text_token_is_counted_and_not_sent(world: World) -> None:
    request = call(prompt_with_eos(60), max_new=60)
    reply = await world.ask(request)
    assert reply.tokens == world.expected(request)
    assert reply.finished.reason is FinishReason.STOP
    assert reply.finished.completion_tokens == len(reply.tokens) + 1


async def test_ignoring_the_end_of_text_goes_on(world: World) -> None:
    request = call(prompt_with_eos(60), stop=Stop(max_new_tokens=60, ignore_eos=True))
    reply = await world.ask(request)
    assert len(reply.tokens) == 60
    assert EOS in reply.tokens


async def test_a_stop_token_ends_the_text_and_is_named(world: World) -> None:
    text = prompt_without_eos(12)
    expected = world.expected(call(text))
    token = next(token for token in expected if token < 128)
    reply = await world.ask(call(text, stop=Stop(max_new_tokens=12, token_ids=(token,))))
    assert reply.tokens == expected[: expected.index(token)]
    assert reply.finished.stop == chr(token)


async def test_a_stop_string_is_never_sent(world: World) -> None:
    text = prompt_without_eos(40)
    whole = ToyTokenizer().decode(world.expected(call(text, max_new=40)))
    stop = whole[10:12]
    reply = await world.ask(call(text, stop=Stop(max_new_tokens=40, strings=(stop, "\x00never\x00"))))
    assert reply.text == whole[: whole.index(stop)]
    assert (reply.finished.reason, reply.finished.stop) == (FinishReason.STOP, stop)


async def test_chat_and_tokens_are_prompts_too(world: World) -> None:
    chat = await world.ask(call(text=None, chat=(("user", "hi"),)))
    tokens = await world.ask(call(ToyTokenizer().encode("user: hi\n")))
    assert chat.tokens == tokens.tokens
    assert chat.started.prompt_tokens == len("user: hi\n")


async def test_a_seed_repeats_a_draw_and_a_drawn_seed_is_told(world: World) -> None:
    warm = Sampling(temperature=1.0)
    first = await world.ask(call("hello", sampling=warm))
    again = await world.ask(call("hello", sampling=warm, seed=first.started.seed))
    other = await world.ask(call("hello", sampling=warm))
    assert first.tokens == again.tokens
    assert first.started.seed != other.started.seed


async def test_log_probabilities_come_where_they_were_asked_for(world: World) -> None:
    request = call(prompt_without_eos(12), sampling=Sampling(logprobs=0))
    items = [item async for item in world.runtime.generate(request)]
    assert {drawn.logprob for item in items if isinstance(item, Delta) for drawn in item.drawn} == {-1.0}


async def test_a_closed_stream_gives_everything_back_before_the_next_step_but_one(world: World) -> None:
    world.registry.add("one")
    text = prompt_without_eos(1)
    async with aclosing(world.runtime.generate(call(text, "one", max_new=100, stop=Stop(100, ignore_eos=True)))) as run:
        async for item in run:
            if isinstance(item, Delta):
                world.engine.running.clear()
                break
    steps = len(world.engine.steps)
    world.engine.running.set()
    await eventually(lambda: world.budget("kv_tokens") == 0)
    assert len(world.engine.steps) <= steps + 1
    assert world.runtime.residents()[0].leases == 0


async def test_a_cancelled_task_gives_everything_back_wherever_it_waits(world: World) -> None:
    one = world.registry.add("one")
    gate = world.registry.hold(one)
    loading = asyncio.create_task(world.ask(call("hello", "one")))
    await eventually(lambda: world.registry.fetched.total() > 0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    gate.set()
    assert world.budget("queue") == 0


async def test_a_step_that_fails_fails_its_requests_typed_and_the_loop_lives(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.engine.broken = 1
    with pytest.raises(Internal, match="engine failed"):
        await world.ask(call())
    assert "the device fell over" in caplog.text
    request = call()
    assert (await world.ask(request)).tokens == world.expected(request)


async def test_a_step_that_fails_for_one_request_is_done_for_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, bad = world.engine.step, call("the bad one")

    def broken(rows: Sequence[StepRow]) -> list[Computed]:
        if any(bytes(row.context[:11]) == b"the bad one" for row in rows):
            raise RuntimeError("the device fell over")
        return step(rows)

    monkeypatch.setattr(world.engine, "step", broken)
    others = [call(f"neighbour {number}") for number in range(4)]
    replies = await asyncio.gather(*map(world.ask, [*others[:2], bad, *others[2:]]), return_exceptions=True)

    assert isinstance(replies.pop(2), Internal)
    assert [reply.tokens for reply in replies if isinstance(reply, Reply)] == [world.expected(one) for one in others]


async def test_a_prompt_without_room_for_an_answer_is_refused(world: World) -> None:
    with pytest.raises(PromptTooLong, match="holds 128 tokens, answer included; the prompt has 128"):
        await world.ask(call([1] * 128))


async def test_the_answer_is_cut_to_what_the_context_leaves(world: World) -> None:
    reply = await world.ask(call([1] * 120, stop=Stop(max_new_tokens=2**31 - 1, ignore_eos=True)))
    assert (reply.finished.reason, reply.finished.completion_tokens) == (FinishReason.LENGTH, 8)


async def test_a_request_that_the_kv_cache_can_never_hold_is_refused(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=16, row_bytes=1, kv_blocks=8, block_tokens=4, max_context=128)
    async with running(tmp_path, limits=limits) as world:
        with pytest.raises(RequestTooLarge, match="holds 32 tokens; the prompt has 30 and 12 more"):
            await world.ask(call([1] * 30))
        assert len((await world.ask(call([1] * 20, stop=Stop(12, ignore_eos=True)))).tokens) == 12


async def test_requests_beyond_kv_wait_for_their_turn(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=16, row_bytes=1, kv_blocks=8, block_tokens=4, max_context=128)
    async with running(tmp_path, limits=limits) as world:
        requests = [call([n] * 10, max_new=12) for n in range(6)]
        replies = await asyncio.gather(*map(world.ask, requests))
        assert [reply.tokens for reply in replies] == [world.expected(request) for request in requests]
        assert max(len(step) for step in world.engine.steps) == 2


async def test_a_full_queue_refuses(tmp_path: Path) -> None:
    async with running(tmp_path, queue=1) as world:
        gate = world.registry.hold(world.registry.add("slow"))
        waiting = asyncio.create_task(world.ask(call("hello", "slow")))
        await eventually(lambda: world.budget("queue") == 1)
        with pytest.raises(QueueFull, match="1 of this caller's requests wait, and 0 places of 1"):
            await world.ask(call())
        gate.set()
        await waiting
        await world.ask(call())


async def test_an_adapter_that_still_loads_holds_nobody_up(world: World) -> None:
    gate = world.registry.hold(world.registry.add("slow"))
    slow = asyncio.create_task(world.ask(call("hello", "slow")))
    await eventually(lambda: world.registry.fetched.total() > 0)
    request = call("hello")
    assert (await world.ask(request)).tokens == world.expected(request)
    assert not slow.done()
    gate.set()
    await slow


async def test_waiting_for_kv_without_a_deadline_ends_busy(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=16, row_bytes=1, kv_blocks=8, block_tokens=4, max_context=128)
    async with running(tmp_path, limits=limits, default_wait=0.05) as world:
        world.engine.running.clear()
        first = asyncio.create_task(world.ask(call([1] * 10, max_new=20)))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        with pytest.raises(CacheBusy, match="KV cache"):
            await world.ask(call([2] * 10, max_new=20))
        world.engine.running.set()
        await first


async def test_a_deadline_ends_a_running_text(world: World) -> None:
    items = []
    with pytest.raises(DeadlineExceeded, match="before the text was complete"):  # noqa: PT012 - what came before counts
        async for item in world.runtime.generate(call(deadline=time.monotonic() + 0.2)):
            items.append(item)
            world.engine.running.clear()
    world.engine.running.set()
    assert isinstance(items[0], Started)


async def test_a_deadline_ends_a_load(world: World) -> None:
    gate = world.registry.hold(world.registry.add("slow"))
    with pytest.raises(DeadlineExceeded, match="not loaded before the deadline"):
        await world.ask(call("hello", "slow", deadline=time.monotonic() + 0.05))
    gate.set()


async def test_a_draining_worker_finishes_what_runs_and_takes_nothing_new(world: World) -> None:
    world.engine.running.clear()
    running_request = asyncio.create_task(world.ask(call()))
    await eventually(lambda: world.budget("kv_tokens") > 0)
    drain = asyncio.create_task(world.runtime.drain(60))
    await asyncio.sleep(0)
    for refused in (world.ask(call()), world.runtime.load("one"), world.switch("default", (), None)):
        with pytest.raises(Draining):
            await refused
    assert not drain.done()
    world.engine.running.set()
    await running_request
    await drain


async def test_what_outlives_the_grace_of_a_drain_is_told_so_whatever_it_waits_for(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.add("one")
        slow = world.registry.add("slow")
        gate = world.registry.hold(slow)
        world.engine.running.clear()
        generating = asyncio.create_task(world.ask(call("hello", "one")))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        others = [world.runtime.unload("one"), world.runtime.load("slow"), world.ask(call("hello", "slow"))]
        waiting = [asyncio.create_task(other) for other in others]
        await eventually(lambda: world.registry.fetched[world.registry.weights(slow).digest] == 1)
        draining = asyncio.create_task(world.runtime.drain(0))
        for call_in_flight in (generating, *waiting):
            with pytest.raises(Draining):
                await call_in_flight
        gate.set()
        world.engine.running.set()
        await draining


async def test_closing_fails_what_runs_typed(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.engine.running.clear()
        request = asyncio.create_task(world.ask(call()))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        closing = asyncio.create_task(world.runtime.close())
        await asyncio.sleep(0.01)
        world.engine.running.set()
        await closing
        with pytest.raises(Draining):
            await request


async def test_nothing_is_held_for_a_call_that_is_wrong(world: World) -> None:
    with pytest.raises(InvalidInput, match="exactly one of text, chat and tokens"):
        await world.ask(GenerateCall())
    with pytest.raises(InvalidInput, match="no tokens"):
        await world.ask(call(""))
    assert world.registry.resolved.total() == 0
    assert LIMITS.kv_blocks * LIMITS.block_tokens == next(
        use.limit for use in world.runtime.budgets() if use.name == "kv_tokens"
    )
