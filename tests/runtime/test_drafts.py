"""Steps that verify drafts: who gets room for them, and what of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compute_worker.contract import Drawn, EngineLimits, Sampling
from compute_worker.runtime.api import FinishReason
from compute_worker.runtime.job import Job, Left, Outcome
from compute_worker.runtime.lookup import PromptLookup
from compute_worker.runtime.scheduler import Scheduler

LIMITS = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=10, block_tokens=4, max_context=40, draft_tokens=6)
STOP = 9
# Behind 1, 2 came 3, 4.
PROMPT = [1, 2, 3, 4, 1, 2]


def job(number: int = 0, prompt: Sequence[int] = PROMPT, max_new: int = 9) -> Job:
    made = Job(number, list(prompt), max_new, (), Sampling(), frozenset({STOP}), lambda _: None)
    made.lookup = PromptLookup()
    return made


def apart(count: int) -> list[Job]:
    """Requests that share no prompt."""
    return [job(number, [50 + number, *PROMPT]) for number in range(count)]


def running(*jobs: Job, limits: EngineLimits = LIMITS, draws: int = 3) -> Scheduler:
    """A scheduler whose requests have drawn their first token."""
    scheduler = Scheduler(limits, max_batch=8, prefill_tokens=64)
    for one in jobs:
        scheduler.submit(one)
    scheduler.admit()
    planned = scheduler.plan()
    list(scheduler.apply(planned, [Drawn(draws)] * len(planned)))
    return scheduler


def drafts(scheduler: Scheduler) -> list[Sequence[int]]:
    return [row.draft for _, row in scheduler.plan()]


def apply(scheduler: Scheduler, *tokens: int) -> list[Outcome]:
    return list(scheduler.apply(scheduler.plan(), [tuple(map(Drawn, tokens))]))


def test_a_draft_runs_behind_the_last_token() -> None:
    ((_, row),) = running(job()).plan()
    assert (row.tokens, row.draft, row.position) == ([3], [4, 1], 6)
    assert len(row.blocks) * LIMITS.block_tokens >= row.position + 3


def test_what_was_right_counts_with_the_draw_behind_it() -> None:
    one = job()
    s = running(one)
    assert [event for _, event in apply(s, 4, 1, 7)] == [Drawn(4), Drawn(1), Drawn(7)]
    assert (one.context[6:], one.computed, one.drawn) == ([3, 4, 1, 7], 9, 4)
    assert (s.steps.drafted, s.steps.accepted) == (2, 2)


def test_behind_a_wrong_token_the_next_step_goes_on_from_the_right_one() -> None:
    one = job()
    s = running(one)
    apply(s, 5)
    ((_, row),) = s.plan()
    assert (row.tokens, row.position, row.index) == ([5], 7, 2)
    assert (s.steps.drafted, s.steps.accepted) == (2, 0)


def test_an_answer_that_ends_within_a_draft_takes_nothing_behind_its_end() -> None:
    one = job()
    s = running(one)
    assert [event for _, event in apply(s, 4, STOP, 7)] == [Drawn(4), Left(FinishReason.STOP, stop_token=STOP)]
    assert (one.context[6:], s.blocks.used, s.busy) == ([3, 4], 0, False)


def test_no_draft_reaches_beyond_the_last_token_that_was_asked_for() -> None:
    assert drafts(running(job(max_new=3))) == [[4]]
    assert drafts(running(job(max_new=2))) == [()]


def test_requests_share_the_room_alike() -> None:
    assert drafts(running(*apart(2))) == [[4, 1], [4, 1]]
    assert drafts(running(*apart(4), limits=replace(LIMITS, kv_blocks=20))) == [(), (), [4], [4]]


def test_who_has_nothing_to_draft_leaves_the_room_to_the_others() -> None:
    assert drafts(running(job(0, [5, 6, 7]), job(1), limits=replace(LIMITS, draft_tokens=4))) == [(), [4, 1]]


def test_a_step_of_many_requests_has_no_room() -> None:
    assert drafts(running(*apart(6), limits=replace(LIMITS, kv_blocks=30))) == [()] * 6


def test_an_engine_that_verifies_none_gets_none() -> None:
    assert drafts(running(job(), limits=replace(LIMITS, draft_tokens=0))) == [()]


def test_beside_a_prompt_there_are_no_drafts() -> None:
    s = running(job(0))
    s.submit(job(1, [7] * 5))
    s.admit()
    assert drafts(s) == [(), ()]


def test_a_draft_takes_nobodys_block() -> None:
    s = running(job(), limits=replace(LIMITS, kv_blocks=2, draft_tokens=3))
    assert drafts(s) == [()] or len(s.plan()[0][1].blocks) <= 2
    one = job(prompt=[*PROMPT, 1, 2])
    full = running(one, limits=replace(LIMITS, kv_blocks=3))
    one.context += [4, 1, 2]
    one.computed = 11
    assert drafts(full) == [()]
