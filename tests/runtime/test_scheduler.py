"""Continuous batching, step by step, without a thread."""

import pytest

from compute_worker.contract import Drawn, EngineLimits, Sampling
from compute_worker.runtime.api import FinishReason
from compute_worker.runtime.job import Admitted, Job, Left, Planned
from compute_worker.runtime.scheduler import Scheduler
from lorry.errors import Draining, Internal

LIMITS = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=10, block_tokens=4, max_context=40)
A, B = Drawn(1), Drawn(2)
STOP = Drawn(9)


def scheduler(*, max_batch: int = 4, prefill_tokens: int = 8, limits: EngineLimits = LIMITS) -> Scheduler:
    return Scheduler(limits, max_batch, prefill_tokens)


def job(number: int, prompt: int = 3, max_new: int = 4) -> Job:
    return Job(number, [7] * prompt, max_new, (), Sampling(), frozenset({9}), lambda _: None)


def sizes(planned: list[Planned]) -> list[tuple[int, int, int]]:
    """(Which request, first position, number of tokens) of each row."""
    return [(job.number, row.position, len(row.tokens)) for job, row in planned]


def step(scheduler: Scheduler, token: Drawn = A) -> list[tuple[int, int, int]]:
    """Admit, plan and apply one step that draws the same token in every row that draws."""
    scheduler.admit()
    planned = scheduler.plan()
    list(scheduler.apply(planned, [token if row.sample else None for _, row in planned]))
    return sizes(planned)


def test_a_request_runs_its_prompt_then_token_by_token() -> None:
    s = scheduler()
    s.submit(job(0))
    assert [step(s), step(s), step(s)] == [[(0, 0, 3)], [(0, 3, 1)], [(0, 4, 1)]]


def test_a_long_prompt_is_cut_and_draws_only_behind_its_last_token() -> None:
    s = scheduler(prefill_tokens=4)
    s.submit(job(0, prompt=10))
    s.admit()
    samples = []
    for _ in range(3):
        planned = s.plan()
        samples.append(planned[0][1].sample is not None)
        list(s.apply(planned, [A if samples[-1] else None]))
    assert samples == [False, False, True]


def test_running_answers_go_first_and_prompts_share_the_budget() -> None:
    s = scheduler(prefill_tokens=8)
    s.submit(job(0))
    step(s)
    s.submit(job(1, prompt=3))
    s.submit(job(2, prompt=6))
    assert step(s) == [(0, 3, 1), (1, 0, 3), (2, 0, 4)]
    assert step(s) == [(0, 4, 1), (1, 3, 1), (2, 4, 2)]


def test_blocks_cover_each_row_and_no_more() -> None:
    s = scheduler(prefill_tokens=4)
    s.submit(job(0, prompt=10))
    s.admit()
    counts = []
    for _ in range(3):
        planned = s.plan()
        counts.append(len(planned[0][1].blocks))
        list(s.apply(planned, [A if row.sample else None for _, row in planned]))
    assert counts == [1, 2, 3]


def test_admission_is_by_arrival_and_stops_at_the_first_that_does_not_fit() -> None:
    s = scheduler()
    for number, prompt in ((2, 2), (0, 20), (1, 20)):
        s.submit(job(number, prompt=prompt))
    assert [job.number for job, _ in s.admit()] == [0]


def test_a_batch_has_a_most() -> None:
    s = scheduler(max_batch=2)
    for number in range(3):
        s.submit(job(number))
    assert [(job.number, event) for job, event in s.admit()] == [(0, Admitted()), (1, Admitted())]


def test_an_answer_ends_at_its_length_and_gives_its_blocks_back() -> None:
    s = scheduler()
    first = job(0, max_new=1)
    s.submit(first)
    s.admit()
    planned = s.plan()
    assert list(s.apply(planned, [A])) == [(first, A), (first, Left(FinishReason.LENGTH))]
    assert (s.blocks.used, s.busy) == (0, False)


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it() -> None:
    s = scheduler()
    first = job(0)
    s.submit(first)
    s.admit()
    assert list(s.apply(s.plan(), [STOP])) == [(first, Left(FinishReason.STOP, stop_token=9))]
    assert first.context == [7] * 3


def test_a_cancelled_request_leaves_at_once_running_or_waiting() -> None:
    s = scheduler(max_batch=1)
    runs, waits = job(0), job(1)
    s.submit(runs)
    s.submit(waits)
    s.admit()
    assert s.cancel(waits) == [(waits, Left())]
    assert s.cancel(runs) == [(runs, Left())]
    assert s.cancel(runs) == []
    assert (s.blocks.used, s.busy) == (0, False)


def test_a_failed_step_takes_out_its_own_requests_alone() -> None:
    s = scheduler(max_batch=1)
    runs, waits = job(0), job(1)
    s.submit(runs)
    s.submit(waits)
    s.admit()
    error = Internal("broken")
    assert s.fail(s.plan(), error) == [(runs, Left(error=error))]
    assert [job for job, _ in s.admit()] == [waits]


def test_closing_takes_everybody_out() -> None:
    s = scheduler(max_batch=1)
    for number in range(3):
        s.submit(job(number))
    s.admit()
    left = s.cancel_all(Draining("closing"))
    assert sorted(job.number for job, _ in left) == [0, 1, 2]
    assert (s.blocks.used, s.busy) == (0, False)


@pytest.mark.parametrize("answer", [[None], [], [A, A]])
def test_an_engine_that_answers_for_other_rows_is_a_defect(answer: list[Drawn | None]) -> None:
    s = scheduler()
    s.submit(job(0))
    s.admit()
    planned = s.plan()
    with pytest.raises(Internal, match="the engine answered"):
        list(s.apply(planned, answer))
    assert len(s.fail(planned, Internal("broken"))) == 1
