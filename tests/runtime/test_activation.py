"""Activated LoRA: the adapter is active from the last occurrence of its invocation in the prompt on, and what
was computed before that is the base's own.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from compute_worker.contract import Drawn, EngineLimits, PublishedAdapter, Sampling
from compute_worker.runtime.activation import last_start
from compute_worker.runtime.api import ScoreCall, ScoreItem, Weighted
from compute_worker.runtime.job import Job, Phase
from compute_worker.runtime.scheduler import Scheduler
from tests.support.toy_engine import LIMITS, likelihoods, next_token, reference
from tests.support.toy_wording import EOS
from tests.support.toy_world import World, call, running

INVOCATION = "<judge>"
SYSTEM = "You are a helpful assistant. "  # 29 tokens: 7 full blocks of the toy
PROMPT = f"{SYSTEM}Was that right? {INVOCATION} Say yes or no:"
START = PROMPT.index(INVOCATION)


def activated(world: World, name: str = "judge", words: str = INVOCATION, **options: object) -> PublishedAdapter:
    return world.registry.add(name, config={"alora_invocation_tokens": list(words.encode())}, **options)


def expected(world: World, prompt: str, published: PublishedAdapter, start: int, max_new: int = 12) -> list[int]:
    active = ((world.registry.content(published), 1.0),)
    answer = reference(prompt.encode(), active, max_new, start=start)
    return [token for token in answer if token != EOS]


@pytest.mark.parametrize(
    ("invocation", "prompt", "start"),
    [
        ([], [1, 2], 0),
        ([7], [7, 1, 7, 2], 2),
        ([7, 8], [7, 8, 7, 8, 7], 2),
        ([7, 7], [7, 7, 7], 1),
        ([7, 8], [8, 7], None),
        ([7, 8], [7], None),
        ([7], [7], 0),
        ([1 << 30], [7], None),
    ],
)
def test_the_last_occurrence_counts(invocation: list[int], prompt: list[int], start: int | None) -> None:
    assert last_start(invocation, prompt) == start


async def test_tokens_before_the_invocation_are_the_bases(world: World) -> None:
    judge = activated(world)
    reply = await world.ask(call(PROMPT, "judge"))
    assert reply.tokens == expected(world, PROMPT, judge, START)
    assert reply.tokens != expected(world, PROMPT, judge, 0)
    assert reply.started.inactive == ()


async def test_the_last_of_several_invocations_activates(world: World) -> None:
    judge = activated(world)
    twice = f"{INVOCATION} one {INVOCATION} two"
    assert (await world.ask(call(twice, "judge"))).tokens == expected(world, twice, judge, twice.rindex(INVOCATION))


async def test_an_answer_that_has_the_invocation_activates_nothing(world: World) -> None:
    request = call(SYSTEM, max_new=40)
    base = (await world.ask(request)).tokens
    drawn = next(token for token in base if token not in SYSTEM.encode())
    world.registry.add("echo", config={"alora_invocation_tokens": [drawn]})
    assert (await world.ask(call(SYSTEM, "echo", max_new=40))).tokens == base == world.expected(request)


async def test_a_prompt_without_the_invocation_gets_the_base_and_is_told_so(world: World) -> None:
    judge = activated(world)
    request = call(SYSTEM, "judge")
    reply = await world.ask(request)
    assert reply.tokens == world.expected(request)
    assert reply.started.inactive == (judge.digest,)


async def test_what_comes_before_is_shared_with_the_base_and_what_comes_behind_is_not(world: World) -> None:
    judge = activated(world)
    whole_blocks = START // LIMITS.block_tokens * LIMITS.block_tokens
    base = await world.ask(call(PROMPT))
    first = await world.ask(call(PROMPT, "judge"))
    again = await world.ask(call(PROMPT, "judge"))
    assert first.finished.cached_tokens == whole_blocks
    assert again.finished.cached_tokens > whole_blocks
    assert first.tokens == again.tokens == expected(world, PROMPT, judge, START)
    assert base.tokens == (await world.ask(call(PROMPT))).tokens == world.expected(call(PROMPT))


async def test_the_base_finds_what_an_activated_request_computed_before_it_began(world: World) -> None:
    activated(world)
    await world.ask(call(PROMPT, "judge"))
    request = call(PROMPT)
    reply = await world.ask(request)
    assert reply.finished.cached_tokens == START // LIMITS.block_tokens * LIMITS.block_tokens
    assert reply.tokens == world.expected(request)


async def test_each_of_several_begins_in_its_own_place(world: World) -> None:
    judge, poet = activated(world), activated(world, "poet", "yes", rank=3)
    plain = world.registry.add("plain")
    selection = (Weighted("judge", 0.5), Weighted("plain"), Weighted("poet", -1.0))
    starts = {"judge": START, "plain": 0, "poet": PROMPT.index("yes")}
    contents = {
        name: (world.registry.content(one), weight)
        for (name, one, weight) in (("judge", judge, 0.5), ("plain", plain, 1.0), ("poet", poet, -1.0))
    }
    reply = await world.ask(call(PROMPT, *selection, max_new=1))
    cells = [
        (token, tuple(contents[name] for name in starts if at >= starts[name]))
        for at, token in enumerate(PROMPT.encode())
    ]

    assert reply.tokens == [next_token(cells, Sampling(), 0)]


async def test_small_chunks_and_lost_blocks_change_nothing(tmp_path: Path) -> None:
    limits = replace(LIMITS, kv_blocks=44)  # two of these and a half: somebody is pushed out again and again
    async with running(tmp_path, limits=limits, prefill_tokens=3) as world:
        judge = activated(world)
        prompts = [f"{PROMPT}{number}" for number in range(5)]
        replies = await asyncio.gather(*(world.ask(call(prompt, "judge", max_new=30)) for prompt in prompts))
        assert [reply.tokens for reply in replies] == [expected(world, one, judge, START, 30) for one in prompts]
        assert world.runtime.figures().steps.preempted > 0


async def test_a_score_sees_the_adapter_from_the_invocation_in_the_prompt_on(world: World) -> None:
    judge = activated(world)
    said = f"yes {INVOCATION} indeed"
    items = [ScoreItem(text=text, continuation=said, selection=(Weighted("judge"),)) for text in (PROMPT, SYSTEM)]
    scores = sorted([one async for one in world.runtime.score(ScoreCall(tuple(items)))], key=lambda one: one.index)
    active = ((world.registry.content(judge), 1.0),)
    assert list(scores[0].logprobs) == likelihoods(PROMPT.encode(), said.encode(), active, START)
    assert list(scores[1].logprobs) == likelihoods(SYSTEM.encode(), said.encode(), ())
    assert [one.inactive for one in scores] == [(), (judge.digest,)]


def test_a_chunk_ends_where_an_adapter_becomes_active() -> None:
    s = Scheduler(EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=16, block_tokens=4, max_context=40), 4, 64)
    later = (Phase(5, (), b"one"), Phase(6, (), b"two"))
    s.submit(Job(0, [7] * 11, 2, (), Sampling(), frozenset(), lambda _: None, later=later))
    s.admit()
    chunks = []
    for _ in range(4):
        planned = s.plan()
        chunks.append([(row.position, len(row.tokens)) for _, row in planned])
        list(s.apply(planned, [Drawn(1) if row.sample else None for _, row in planned]))
    assert chunks == [[(0, 5)], [(5, 1)], [(6, 5)], [(11, 1)]]


def test_keys_of_blocks_are_the_same_up_to_the_activation_alone() -> None:
    def keys(*later: Phase, scope: bytes = b"base") -> list[bytes]:
        job = Job(0, [7] * 16, 2, (), Sampling(), frozenset(), lambda _: None, scope=scope, later=later)
        return [job.key(block, 4) for block in range(4)]

    base, fifth, sixth = keys(), keys(Phase(5, (), b"one")), keys(Phase(6, (), b"one"))
    assert base[0] == fifth[0] == sixth[0]
    assert len({base[1], fifth[1], sixth[1], keys(Phase(5, (), b"two"))[1], keys(scope=b"one")[1]}) == 5
    assert keys(Phase(8, (), b"one"))[:2] == base[:2]
    assert keys(Phase(8, (), b"one"))[2] != base[2]
