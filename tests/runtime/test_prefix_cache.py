"""A beginning that several requests have in common is computed once, for the same selection and owner alone."""

import asyncio
from dataclasses import replace

from compute_worker.contract import Drawn, EngineLimits, Sampling
from compute_worker.runtime.api import Weighted
from compute_worker.runtime.job import Job, Planned
from compute_worker.runtime.prefix import beginning, behind
from compute_worker.runtime.rights import Rights, acting
from compute_worker.runtime.scheduler import Scheduler
from tests.support.toy_world import World, call

LIMITS = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=16, block_tokens=4, max_context=40)
SYSTEM = "You are a helpful assistant. "  # 29 tokens: 7 full blocks of the toy


def job(number: int, prompt: list[int], *, scope: bytes = b"") -> Job:
    return Job(number, prompt, 4, (), Sampling(), frozenset(), lambda _: None, scope=scope)


def step(scheduler: Scheduler) -> list[tuple[int, int, int]]:
    """(Which request, first position, number of tokens) of each row of a step."""
    scheduler.admit()
    planned: list[Planned] = scheduler.plan()
    list(scheduler.apply(planned, [Drawn(1) if row.sample else None for _, row in planned]))
    return [(one.number, row.position, len(row.tokens)) for one, row in planned]


def test_full_blocks_are_shared_and_the_last_token_is_always_run() -> None:
    s = Scheduler(LIMITS, 4, 64)
    s.submit(job(0, [7] * 8))
    assert step(s) == [(0, 0, 8)]
    s.submit(job(1, [7] * 8))
    s.submit(job(2, [7] * 9))
    assert step(s) == [(0, 8, 1), (2, 8, 1), (1, 4, 4)]


def test_those_who_come_together_wait_a_step_for_the_first() -> None:
    s = Scheduler(LIMITS, 4, 64)
    for number in range(3):
        s.submit(job(number, [7] * 8 + [number] * 2))
    assert step(s) == [(0, 0, 10)]
    assert step(s) == [(0, 10, 1), (1, 8, 2), (2, 8, 2)]
    assert s.steps.cached == 16


def test_an_answer_is_a_beginning_too() -> None:
    s = Scheduler(LIMITS, 4, 64)
    s.submit(job(0, [7] * 9))
    while s.busy:
        step(s)
    s.submit(job(1, [7] * 9 + [1, 1, 1, 2]))
    s.submit(job(2, [7] * 9 + [1, 1, 2, 2]))
    assert step(s) == [(1, 12, 1), (2, 8, 5)]


def test_another_scope_shares_nothing() -> None:
    s = Scheduler(LIMITS, 4, 64)
    s.submit(job(0, [7] * 8, scope=b"a"))
    step(s)
    s.submit(job(1, [7] * 8, scope=b"b"))
    assert step(s) == [(0, 8, 1), (1, 0, 8)]


def test_room_is_made_by_forgetting_and_what_is_in_use_is_not_forgotten() -> None:
    s = Scheduler(replace(LIMITS, kv_blocks=13), 4, 64)
    s.submit(job(0, [7] * 20))
    while s.busy:
        step(s)
    assert (s.blocks.used, s.blocks.kept) == (0, 5)
    s.submit(job(1, [7] * 9))
    s.submit(job(2, [8] * 35))
    assert step(s) == [(1, 8, 1), (2, 0, 35)]
    assert (s.blocks.used, s.blocks.kept) == (12, 1)


async def test_a_system_prompt_is_computed_once_for_each_selection(world: World) -> None:
    one = world.registry.add("one")
    for n, (selection, cached) in enumerate([((), 0), ((), 28), (("one",), 0), (("one",), 28), ((), 28)]):
        request = call(f"{SYSTEM}{n}", *selection)
        reply = await world.ask(request)
        assert reply.tokens == world.expected(request, *[(one, 1.0)] * len(selection))
        assert (reply.started.cached_tokens, reply.finished.cached_tokens) == (cached, cached)
    assert world.budget("prefix_tokens") > 0
    assert world.runtime.figures().steps.cached == 3 * 28


async def test_those_who_come_together_are_told_in_the_end_what_they_shared(world: World) -> None:
    world.engine.running.clear()
    requests = [call(f"{SYSTEM}{n}") for n in range(4)]
    asked = [asyncio.create_task(world.ask(request)) for request in requests]
    await asyncio.sleep(0.05)
    world.engine.running.set()
    replies = await asyncio.gather(*asked)
    assert [reply.tokens for reply in replies] == [world.expected(request) for request in requests]
    assert sorted(reply.finished.cached_tokens for reply in replies) == [0, 28, 28, 28]


async def test_a_weight_and_the_order_of_a_sum_are_part_of_the_selection(world: World) -> None:
    for name in ("one", "two"):
        world.registry.add(name)
    sums = [
        (Weighted("one"), Weighted("two")),
        (Weighted("two"), Weighted("one")),
        (Weighted("one"), Weighted("two", 0.5)),
    ]
    for selection in sums:
        assert (await world.ask(call(SYSTEM, *selection))).finished.cached_tokens == 0


async def test_an_alias_that_moves_never_meets_what_was_computed_before(world: World) -> None:
    world.registry.add("one")
    await world.ask(call(SYSTEM, "one"))
    moved = world.registry.add("one", seed=9)
    request = call(SYSTEM, "one")
    reply = await world.ask(request)
    assert reply.started.adapters[0].digest == moved.digest
    assert (reply.tokens, reply.finished.cached_tokens) == (world.expected(request, (moved, 1.0)), 0)


async def test_a_combination_has_a_beginning_of_its_own(world: World) -> None:
    for name in ("one", "two"):
        world.registry.add(name)
    made = (await world.combine("one", "two")).adapter
    first = await world.ask(call(SYSTEM, made))
    again = await world.ask(call(SYSTEM, made))
    assert (first.finished.cached_tokens, again.finished.cached_tokens) == (0, 28)
    assert first.tokens == again.tokens


async def test_callers_who_are_known_by_name_share_nothing(world: World) -> None:
    async def ask(holder: str) -> int:
        with acting(Rights({"*": 3}, holder)):
            return (await world.ask(call(SYSTEM, tenant="same"))).finished.cached_tokens

    assert [await ask("ann"), await ask("bob"), await ask("ann")] == [0, 0, 28]


def test_a_key_is_of_all_that_came_before() -> None:
    empty = beginning("", ())
    assert behind(behind(empty, [1]), [2]) != behind(behind(empty, [2]), [1])
    assert behind(empty, [1, 2]) != behind(empty, [12])
    assert beginning("ann", ()) != empty
