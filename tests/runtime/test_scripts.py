"""Random scripts against the scheduler and the toy engine, step by step: every answer is the serial one.

Texts with common beginnings, KV for a few of them at once, tenants and priorities, requests that come
and go, steps that fail. The toy notices a block that is written while another reads it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from compute_worker.contract import ActiveAdapter, Drawn, EngineLimits, Sampling
from compute_worker.runtime.job import Job, Left, Outcome
from compute_worker.runtime.lookup import PromptLookup
from compute_worker.runtime.scheduler import Scheduler
from lorry.errors import Internal
from tests.support.toy_engine import EOS, Active, ToyEngine, ToyHost, reference

SEEDS = 40
REQUESTS = 24
STEMS = ([7] * 30, [8] * 9, [7] * 12 + [9] * 18)
SELECTIONS: tuple[tuple[ActiveAdapter, ...], ...] = (
    (),
    (ActiveAdapter(0, 2, 1.0),),
    (ActiveAdapter(2, 3, 1.0),),
    (ActiveAdapter(2, 3, 0.5), ActiveAdapter(0, 2, 1.0)),
)
CONTENTS = {0: "one", 2: "two"}


class Guesses(PromptLookup):
    """Drafts that are right as often as not: a text of hashes repeats nothing that could be looked up."""

    def __init__(self, draw: random.Random, answer: Sequence[int], prompt: int) -> None:
        super().__init__()
        self._draw, self._answer, self._prompt = draw, answer, prompt

    def draft(self, text: Sequence[int], most: int) -> list[int]:
        rest = self._answer[len(text) - self._prompt :][: self._draw.randrange(most + 1)]
        return [self._draw.choice([token, token, 5]) for token in rest]


@dataclass
class Script:
    """One run. `told`: what each request was told so far."""

    seed: int
    told: dict[int, list[int]] = field(default_factory=dict)
    left: dict[int, Left] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    prompts: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        draw = self.draw = random.Random(self.seed)  # noqa: S311 - a repeatable mix
        blocks, drafts = draw.randrange(13, 40), draw.choice([0, 6, 12])
        self.limits = EngineLimits(5, 1, kv_blocks=blocks, block_tokens=4, max_context=52, draft_tokens=drafts)
        self.engine = ToyEngine(self.limits)
        self.engine.install(ToyHost("one", 2, 0), 0)
        self.engine.install(ToyHost("two", 3, 0), 2)
        self.budget = draw.choice([3, 8, 16, 64])
        self.scheduler = Scheduler(self.limits, max_batch=draw.randrange(1, 8), prefill_tokens=self.budget)

    def run(self) -> None:
        while len(self.jobs) < REQUESTS or self.scheduler.busy:
            if len(self.jobs) < REQUESTS and self.draw.random() < 0.4:
                self._submit()
            if self.jobs and self.draw.random() < 0.03:
                self._take(self.scheduler.cancel(self.draw.choice(list(self.jobs.values()))))
            self._step()

    def _submit(self) -> None:
        number, draw = len(self.jobs), self.draw
        prompt = draw.choice(STEMS)[: draw.randrange(1, 31)] + [draw.randrange(3) for _ in range(draw.randrange(3))]
        selection = draw.randrange(len(SELECTIONS))
        self.prompts[number], self.told[number] = prompt, []
        self.jobs[number] = job = Job(
            number=number,
            context=list(prompt),
            max_new=draw.randrange(1, 20),
            adapters=SELECTIONS[selection],
            sampling=Sampling(temperature=draw.choice([0.0, 1.0]), seed=draw.randrange(2)),
            stop_tokens=frozenset({EOS}),
            sink=lambda _: None,
            tenant=draw.choice("abc"),
            priority=draw.randrange(-1, 2),
            scope=bytes([selection]),
        )
        job.lookup = Guesses(draw, self._alone(number), len(prompt))
        self.scheduler.submit(job)

    def _step(self) -> None:
        self._take(self.scheduler.admit())
        planned = self.scheduler.plan()
        assert bool(planned) == bool(self.scheduler.running)
        assert sum(len(row.tokens) for _, row in planned if len(row.tokens) > 1) <= self.budget
        drafts = [len(row.draft) for _, row in planned]
        assert sum(drafts) == 0 or sum(drafts) + len(drafts) <= self.limits.draft_tokens
        if self.draw.random() < 0.01:
            self._take(self.scheduler.fail(planned, Internal("fell over")))
        elif planned:
            self._take(list(self.scheduler.apply(planned, self.engine.step([row for _, row in planned]))))

    def _take(self, outcomes: list[Outcome]) -> None:
        for job, event in outcomes:
            assert job.number not in self.left, "an event after the last"
            if isinstance(event, Drawn):
                self.told[job.number].append(event.token)
            elif isinstance(event, Left):
                self.left[job.number] = event

    def wrong(self) -> list[int]:
        """Numbers of the requests that were told anything else than they would have been alone."""
        return [number for number in self.jobs if not self._right(number)]

    def _right(self, number: int) -> bool:
        told = self.told[number]
        alone = [token for token in self._alone(number) if token != EOS]
        return told == alone if self.left[number].reason else told == alone[: len(told)]

    def _alone(self, number: int) -> list[int]:
        job = self.jobs[number]
        active: Active = tuple((CONTENTS[one.start], one.weight) for one in job.adapters)
        return reference(self.prompts[number], active, job.max_new, job.sampling)


def test_no_answer_depends_on_what_was_preempted_shared_evicted_or_drafted() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        script = Script(seed)
        script.run()
        assert script.wrong() == [], f"seed {seed}"
        assert script.engine.violations == [], f"seed {seed}"
        assert script.scheduler.blocks.used == 0, f"seed {seed}"
        steps = script.scheduler.steps
        seen.update(preempted=steps.preempted, cached=steps.cached, recomputed=steps.recomputed)
        seen.update(accepted=steps.accepted, refused=steps.drafted - steps.accepted)
        seen.update(ended=sum(left.reason is not None for left in script.left.values()))
    # Everything that the scripts are about did happen, and often.
    assert min(seen.values()) > SEEDS, seen
