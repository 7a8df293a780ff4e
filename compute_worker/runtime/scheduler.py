"""Continuous batching: which requests run in the next step, and with which tokens.

Owns the queue, the batch and the KV blocks; a request joins and leaves between two steps. Plain
and single-threaded: whoever drives it calls plan, runs the rows, and calls apply. Does not know
threads, text, or how an adapter came into the pool.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from compute_worker.contract import ActiveAdapter, Drawn, EngineLimits, Sampling, StepRow
from compute_worker.runtime.api import FinishReason
from compute_worker.runtime.kv import Blocks
from lorry.errors import Internal, LorryError


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request has its KV blocks and runs from now on."""


@dataclass(frozen=True, slots=True)
class Left:
    """The request is out; its blocks are free and no step uses its adapters any more. Comes once.

    reason: why it ended by itself, None where it was cancelled or failed. stop_token: the token
    that ended it, which is not part of the answer. error: what made it fail.
    """

    reason: FinishReason | None = None
    stop_token: int | None = None
    error: LorryError | None = None


Event = Admitted | Drawn | Left


@dataclass(eq=False, slots=True)
class Job:
    """A request inside of the scheduler.

    number: order of arrival. context: prompt, then the answer as it grows. sink: takes the events,
    called on the event loop.
    """

    number: int
    context: list[int]
    max_new: int
    adapters: tuple[ActiveAdapter, ...]
    sampling: Sampling
    stop_tokens: frozenset[int]
    sink: Callable[[Event], None]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0  # tokens of the context that are in the KV cache
    drawn: int = 0

    @property
    def decoding(self) -> bool:
        """Whether the prompt has been computed, so that one token is left to run."""
        return self.drawn > 0


# What a step computes: the request and its row.
Planned = tuple[Job, StepRow]
# What came of it, to be handed to the request's sink.
Outcome = tuple[Job, Event]


class Scheduler:
    """First come, first admitted, as soon as KV blocks for prompt and longest answer are free.

    max_batch: most requests at once. prefill_tokens: most prompt tokens in one step; the tokens of
    running answers come first and are not counted.
    """

    def __init__(self, limits: EngineLimits, max_batch: int, prefill_tokens: int) -> None:
        self.blocks = Blocks(limits.kv_blocks, limits.block_tokens)
        self._max_batch = max_batch
        self._prefill_tokens = prefill_tokens
        self._waiting: list[tuple[int, Job]] = []
        self._running: list[Job] = []

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._running)

    def submit(self, job: Job) -> None:
        """Queue a request, by order of its arrival and not of this call."""
        heapq.heappush(self._waiting, (job.number, job))

    def cancel(self, job: Job) -> list[Outcome]:
        """Take a request out, wherever it is. Nothing happens where it has left."""
        if job in self._running:
            return [self._leave(job, Left())]
        if (job.number, job) in self._waiting:
            self._waiting.remove((job.number, job))
            heapq.heapify(self._waiting)
            return [(job, Left())]
        return []

    def cancel_all(self, error: LorryError) -> list[Outcome]:
        """Take every request out."""
        out: list[Outcome] = [self._leave(job, Left(error=error)) for job in list(self._running)]
        out += [(job, Left(error=error)) for _, job in self._waiting]
        self._waiting.clear()
        return out

    def admit(self) -> list[Outcome]:
        """Let waiting requests in, as far as batch and KV blocks reach."""
        admitted: list[Outcome] = []
        while self._waiting and len(self._running) < self._max_batch:
            job = self._waiting[0][1]
            blocks = self.blocks.take(len(job.context) + job.max_new)
            if blocks is None:
                break
            heapq.heappop(self._waiting)
            job.blocks = blocks
            self._running.append(job)
            admitted.append((job, Admitted()))
        return admitted

    def plan(self) -> list[Planned]:
        """Rows of the next step: every running answer, then prompts by arrival as the budget allows."""
        planned = [(job, self._row(job, 1)) for job in self._running if job.decoding]
        budget = self._prefill_tokens
        for job in self._running:
            if budget == 0:
                break
            if not job.decoding:
                size = min(budget, len(job.context) - job.computed)
                budget -= size
                planned.append((job, self._row(job, size)))
        return planned

    def apply(self, planned: Sequence[Planned], drawn: Sequence[Drawn | None]) -> list[Outcome]:
        """Take in what a step computed, one entry of `drawn` a row. Raises Internal where one is missing."""
        wanted = [row.sample is not None for _, row in planned]
        if wanted != [token is not None for token in drawn]:
            raise Internal(f"expected draws for the rows {wanted}, the engine answered {drawn}")
        outcomes: list[Outcome] = []
        for (job, row), token in zip(planned, drawn, strict=True):
            job.computed += len(row.tokens)
            if token is not None:
                outcomes.extend(self._grow(job, token))
        return outcomes

    def fail(self, planned: Sequence[Planned], error: LorryError) -> list[Outcome]:
        """Take out the requests of a step that went wrong."""
        return [self._leave(job, Left(error=error)) for job, _ in planned]

    def _row(self, job: Job, size: int) -> StepRow:
        end = job.computed + size
        return StepRow(
            tokens=job.context[job.computed : end],
            position=job.computed,
            blocks=job.blocks[: self.blocks.needed(end)],
            adapters=job.adapters,
            sample=job.sampling if end == len(job.context) else None,
            context=job.context,
            index=job.drawn,
        )

    def _grow(self, job: Job, token: Drawn) -> list[Outcome]:
        job.drawn += 1
        if token.token in job.stop_tokens:
            return [self._leave(job, Left(FinishReason.STOP, stop_token=token.token))]
        job.context.append(token.token)
        if job.drawn < job.max_new:
            return [(job, token)]
        return [(job, token), self._leave(job, Left(FinishReason.LENGTH))]

    def _leave(self, job: Job, event: Left) -> Outcome:
        self._running.remove(job)
        self.blocks.give_back(job.blocks)
        return job, event
