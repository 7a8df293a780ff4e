"""KV that runs out: who gives its blocks back, and that it loses nothing but time."""

from compute_worker.contract import Drawn, EngineLimits, Sampling
from compute_worker.runtime.job import Admitted, Job, Planned
from compute_worker.runtime.scheduler import Scheduler

# Six blocks of four tokens: two requests of three blocks each.
LIMITS = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=6, block_tokens=4, max_context=24)


def job(number: int, prompt: int, max_new: int, *, priority: int = 0, tenant: str = "") -> Job:
    tokens = [number] * prompt
    return Job(number, tokens, max_new, (), Sampling(), frozenset(), lambda _: None, tenant=tenant, priority=priority)


def step(scheduler: Scheduler) -> list[Planned]:
    scheduler.admit()
    planned = scheduler.plan()
    list(scheduler.apply(planned, [Drawn(1) if row.sample else None for _, row in planned]))
    return planned


def numbers(planned: list[Planned]) -> list[int]:
    return [job.number for job, _ in planned]


def steps_of(scheduler: Scheduler) -> list[list[int]]:
    """Who is in each step until everybody has left."""
    steps = []
    while scheduler.busy:
        steps.append(numbers(step(scheduler)))
    return steps


def test_blocks_are_taken_as_they_are_needed() -> None:
    s = Scheduler(LIMITS, 4, 64)
    s.submit(job(0, prompt=3, max_new=20))
    used = []
    while s.busy:
        step(s)
        used.append(s.blocks.used)
    assert used[:8] == [1, 1, 2, 2, 2, 2, 3, 3]


def test_short_answers_run_beside_each_other_whatever_they_asked_for() -> None:
    s = Scheduler(LIMITS, 4, 64)
    for number in range(3):
        s.submit(job(number, prompt=3, max_new=20))
    assert numbers(step(s)) == [0, 1, 2]


def test_the_newest_gives_its_blocks_back_and_is_computed_again() -> None:
    s = Scheduler(LIMITS, 4, 64)
    old, new = job(0, prompt=7, max_new=16), job(1, prompt=7, max_new=16)
    s.submit(old)
    s.submit(new)
    steps = steps_of(s)
    alone = steps.index([0])
    assert steps[:alone] == [[0, 1]] * alone
    assert s.steps.preempted >= 1
    assert s.steps.recomputed > 0
    assert (len(old.context), len(new.context)) == (23, 23)
    assert steps[-1] == [1]


def test_a_request_is_admitted_once_however_often_it_comes_back() -> None:
    s = Scheduler(LIMITS, 4, 64)
    for number in range(3):
        s.submit(job(number, prompt=7, max_new=16))
    admitted = []
    while s.busy:
        admitted += s.admit()
        planned = s.plan()
        list(s.apply(planned, [Drawn(1) if row.sample else None for _, row in planned]))
    assert s.steps.preempted > 0
    assert [(one.number, event) for one, event in admitted] == [(n, Admitted()) for n in range(3)]


def test_the_least_important_gives_back_first() -> None:
    s = Scheduler(LIMITS, 4, 64)
    s.submit(job(0, prompt=7, max_new=16, priority=-1))
    s.submit(job(1, prompt=7, max_new=16))
    steps = steps_of(s)
    assert [1] in steps[: steps.index([0])]


def test_of_two_tenants_the_one_that_was_served_more_gives_back() -> None:
    s = Scheduler(LIMITS, 4, 64)
    s.submit(job(0, prompt=11, max_new=12, tenant="more"))
    s.submit(job(1, prompt=3, max_new=20, tenant="less"))
    steps = steps_of(s)
    assert [1] in steps[: steps.index([0])]


def test_what_matters_more_does_not_wait_for_a_full_batch_of_its_own_tenant() -> None:
    s = Scheduler(LIMITS, 1, 64)
    s.submit(job(0, prompt=3, max_new=9))
    step(s)
    s.submit(job(1, prompt=3, max_new=2, priority=1))
    s.submit(job(2, prompt=3, max_new=2, priority=9, tenant="other"))
    assert steps_of(s)[:2] == [[1], [1]]


def test_drawn_tokens_keep_their_places_when_they_are_computed_again() -> None:
    s = Scheduler(LIMITS, 1, 64)
    one = job(0, prompt=3, max_new=9)
    s.submit(one)
    for _ in range(4):
        step(s)
    s.submit(job(1, prompt=15, max_new=8, priority=1))
    while one.drawn == 4:
        (planned,) = step(s)
    row = planned[1]
    assert (row.index, row.position + len(row.tokens), len(one.context)) == (4, 7, 8)
    assert row.tokens == one.context[row.position : 7]


def test_recomputed_tokens_are_nobody_s_debt() -> None:
    s = Scheduler(LIMITS, 4, 64)
    for number, tenant in enumerate("ab"):
        s.submit(job(number, prompt=7, max_new=16, tenant=tenant))
    steps_of(s)
    assert s.steps.preempted > 0
    assert s.shares.served("a") == s.shares.served("b") == 7 + 2 * 16
