"""How long prompts may hold up running answers."""

from __future__ import annotations

from collections.abc import Sequence

from compute_worker.contract import Drawn, EngineLimits, Sampling
from compute_worker.runtime.job import Job, Planned
from compute_worker.runtime.pace import LEAST_TOKENS, STALL_SECONDS, Pace
from compute_worker.runtime.scheduler import Scheduler

LIMITS = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=400, block_tokens=4, max_context=1600)
MOST = 512


def job(number: int, prompt: int) -> Job:
    return Job(number, [number] * prompt, 9, (), Sampling(), frozenset(), lambda _: None)


def step(*tokens: int) -> list[Planned]:
    """Rows of a step, by their tokens."""
    planned = []
    for number, count in enumerate(tokens):
        one = job(number, count)
        planned.append((one, one.row(count)))
    return planned


def paced(planned: Sequence[Planned], seconds: float) -> int:
    pace = Pace(MOST)
    pace.took(planned, seconds)
    return pace.tokens(beside=True)


def test_what_prompts_cost_decides_how_many_tokens_of_them_run_beside_answers() -> None:
    assert paced(step(400), 400 * STALL_SECONDS / 160) == 160
    assert paced(step(1, 1, 250, 150), 400 * STALL_SECONDS / 160) == 160


def test_where_nobody_waits_for_a_token_a_step_takes_all_it_may() -> None:
    pace = Pace(MOST)
    pace.took(step(400), 10)
    assert pace.tokens(beside=False) == MOST


def test_before_anything_was_seen_a_step_takes_all_it_may() -> None:
    assert Pace(MOST).tokens(beside=True) == MOST


def test_steps_of_answers_and_short_prompts_tell_nothing() -> None:
    assert paced(step(1, 1, 1), 5) == MOST
    assert paced(step(LEAST_TOKENS - 1), 5) == MOST


def test_a_slow_machine_still_runs_chunks_and_a_fast_one_no_more_than_the_budget() -> None:
    assert paced(step(400), 400) == LEAST_TOKENS
    assert paced(step(400), 0.001) == MOST


def test_a_step_that_was_held_up_is_forgotten() -> None:
    pace, usual = Pace(MOST), 400 * STALL_SECONDS / 160
    for seconds in (usual, 10 * usual, *[usual] * 8):
        pace.took(step(400), seconds)
    assert 150 < pace.tokens(beside=True) <= 160


def test_the_scheduler_cuts_prompts_by_it_beside_answers_alone() -> None:
    s = Scheduler(LIMITS, 8, MOST)
    s.pace.took(step(400), 400 * STALL_SECONDS / 160)
    sizes = []
    for number, prompt in enumerate((300, 600)):
        s.submit(job(number, prompt))
        s.admit()
        planned = s.plan()
        sizes.append([len(row.tokens) for _, row in planned])
        list(s.apply(planned, [Drawn(1) if row.sample else None for _, row in planned]))
    assert sizes == [[300], [1, 160]]
