"""Continuous batching: which requests run in the next step, and with which tokens.

Owns the batch, and who has which KV blocks; a request joins and leaves between two steps. Blocks are
taken as they are needed: where they run out, a request loses its own and is computed again later. Plain
and single-threaded: whoever drives it calls admit and plan, runs the rows, and calls apply. Does not
know threads, text, or how an adapter came into the pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compute_worker.contract import Computed, Drawn, EngineLimits, Scored
from compute_worker.runtime.api import FinishReason
from compute_worker.runtime.drafts import drafted
from compute_worker.runtime.job import Admitted, Job, Left, Outcome, Planned
from compute_worker.runtime.kv import Blocks
from compute_worker.runtime.pace import Pace
from compute_worker.runtime.sharing import DRAWN_COST, PROMPT_COST, Shares, Waiting
from compute_worker.runtime.tally import Steps
from lorry.errors import Internal, InvalidGrammar, LorryError

# Every token that is scored needs its logits: so many of a vocabulary of 49,152 are 50 MB.
_MAX_TARGETS = 256


class Scheduler:
    """Tenants by turns (see sharing), as far as batch and KV blocks reach.

    max_batch: most requests at once. prefill_tokens: most prompt tokens in one step, fewer beside running
    answers (see pace), which come first and are not counted.
    """

    def __init__(self, limits: EngineLimits, max_batch: int, prefill_tokens: int) -> None:
        self.blocks = Blocks(limits.kv_blocks, limits.block_tokens)
        self.steps = Steps()
        self._max_batch = max_batch
        self.pace = Pace(prefill_tokens)
        self._draft_tokens = limits.draft_tokens
        self.shares = Shares()
        self._waiting = Waiting(self.shares)
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
        """Queue a request."""
        self._waiting.add(job)

    def cancel(self, job: Job) -> list[Outcome]:
        """Take a request out, wherever it is. Nothing happens where it has left."""
        if job in self._running:
            return [self._leave(job, Left())]
        return [(job, Left())] if self._waiting.remove(job) else []

    def cancel_all(self, error: LorryError) -> list[Outcome]:
        """Take every request out."""
        out: list[Outcome] = [self._leave(job, Left(error=error)) for job in list(self._running)]
        waiting = list(self._waiting)
        for job in waiting:
            self._waiting.remove(job)
        return out + [(job, Left(error=error)) for job in waiting]

    def admit(self) -> list[Outcome]:
        """Let waiting requests in, as far as batch and KV blocks reach."""
        admitted: list[Outcome] = []
        while self._waiting and self._fits(job := self._waiting.first()):
            self._waiting.remove(job)
            self._running.append(job)
            self._found(job)
            if not job.begun:
                job.begun = True
                admitted.append((job, Admitted()))
        return admitted

    def plan(self) -> list[Planned]:
        """Rows of the next step: every running answer, then prompts as the budget allows.

        Never empty while anything runs: where nobody gets a block, somebody gives some back.
        """
        planned: list[Planned] = []
        while self._running and not planned:
            order = sorted(self._running, key=self.shares.rank)
            planned = self._decodes(order)
            if all(job.left == 1 for job in self._running):  # beside prompts a draft costs its full price
                planned = drafted(planned, self._draft_tokens, self._cover)
            planned += self._prompts(order, self.pace.tokens(beside=bool(planned)))
            if not planned:
                self._preempt(max(self._running, key=self.shares.rank))
        return planned

    def apply(self, planned: Sequence[Planned], computed: Sequence[Computed]) -> Iterator[Outcome]:
        """Take in what a step computed, row by row: what was told stands. Raises Internal where one is missing."""
        wanted = [row.sample is not None or bool(row.targets) for _, row in planned]
        if wanted != [result is not None for result in computed]:
            raise Internal(f"expected results for the rows {wanted}, the engine answered {computed}")
        for (job, row), result in zip(planned, computed, strict=True):
            self._computed(job, len(row.tokens))
            if isinstance(result, Scored):
                yield from self._score(job, result)
            elif result is not None:
                drawn = (result,) if isinstance(result, Drawn) else result
                yield from self._drawn(job, len(row.draft), drawn)

    def fail(self, planned: Sequence[Planned], error: LorryError) -> list[Outcome]:
        """Take out the requests of a step that went wrong, those that left by it apart."""
        return [self._leave(job, Left(error=error)) for job, _ in planned if job in self._running]

    # Admission

    def _fits(self, job: Job) -> bool:
        """Whether there is room for it now; what the cache has of its context is its own then."""
        return self._place_in_batch(job) and self._room_in_kv(job)

    def _place_in_batch(self, job: Job) -> bool:
        if len(self._running) < self._max_batch:
            return True
        return self._preempt_for(job)

    def _room_in_kv(self, job: Job) -> bool:
        while True:
            self._adopt(job)
            missing = self.blocks.needed(len(job.context) + 1) - len(job.blocks)
            # Whoever runs gets a block more before the next one is let in, else somebody is soon pushed out.
            promised = sum(self._missing(other) + 1 for other in self._running)
            if missing + promised <= self.blocks.available:
                return True
            self._drop(job)
            if not self._preempt_for(job):
                return False

    def _missing(self, job: Job) -> int:
        return max(0, self.blocks.needed(len(job.context)) - len(job.blocks))

    def _preempt_for(self, job: Job) -> bool:
        """Let a request of the same tenant wait that matters less; whether there was one."""
        less = [other for other in self._running if other.tenant == job.tenant and other.priority < job.priority]
        if less:
            self._preempt(max(less, key=self.shares.rank))
        return bool(less)

    # The next step

    def _decodes(self, order: Sequence[Job]) -> list[Planned]:
        """Rows of those who have one token left to run. Who comes late in the order gives its blocks to the others."""
        planned: list[Planned] = []
        for job in order:
            while job.left == 1 and job in self._running:
                if self._cover(job, 1):
                    planned.append((job, job.row(1)))
                    break
                self._preempt(max(self._running, key=order.index))
        return planned

    def _prompts(self, order: Sequence[Job], budget: int) -> list[Planned]:
        """Chunks of prompts, within the budget and the blocks that are there.

        Nobody computes what another computes in the same step: it is found in the cache a step later.
        """
        planned: list[Planned] = []
        claimed = set[bytes]()
        for job in order:
            if budget == 0:
                break
            if job.left == 1 or job not in self._running:
                continue
            self._adopt(job)
            self._found(job)
            size = self._size(job, budget, whole=bool(planned))
            if job.targets:
                room = _MAX_TARGETS - sum(len(row.targets) for _, row in planned)
                size = min(size, job.unscored + room - job.computed)
            if size and claimed.isdisjoint(keys := self._keys(job, size)):
                claimed.update(keys)
                self._cover(job, size)
                budget -= size
                planned.append((job, job.row(size)))
        return planned

    def _size(self, job: Job, budget: int, *, whole: bool) -> int:
        """Tokens of its next chunk, which ends with a block where it can, so that the next may be shared.

        Adapters are the same in all of it. whole: rather none than a part of a block.
        """
        tokens = self.blocks.block_tokens
        reach = (len(job.blocks) + self.blocks.available) * tokens - job.computed
        size = min(budget, job.stretch, reach)
        if size == job.stretch:
            return size
        aligned = size - (job.computed + size) % tokens
        return aligned if aligned > 0 else 0 if whole else size

    def _keys(self, job: Job, size: int) -> list[bytes]:
        """Of the blocks that the next `size` tokens lie in, and that will be full."""
        tokens = self.blocks.block_tokens
        last = min((job.computed + size - 1) // tokens, len(job.context) // tokens - 1)
        return [job.key(block, tokens) for block in range(job.computed // tokens, last + 1)]

    def _cover(self, job: Job, size: int) -> bool:
        """Give it the blocks for its next `size` tokens; whether there were enough."""
        taken = self.blocks.take(self.blocks.needed(job.computed + size) - len(job.blocks))
        job.blocks += taken or ()
        return taken is not None

    # What is in the KV cache

    def _adopt(self, job: Job) -> None:
        """Share the full blocks behind what is computed, as far as they were computed for anybody.

        A token is always run where something is drawn or scored behind it: that is not in the cache.
        """
        tokens = self.blocks.block_tokens
        while job.computed == len(job.blocks) * tokens and job.computed + tokens <= job.unscored:
            block = self.blocks.share(job.key(len(job.blocks), tokens))
            if block is None:
                break
            job.blocks.append(block)
            job.computed += tokens

    def _found(self, job: Job) -> None:
        """Take in what it shares and was never computed for it."""
        found = max(0, job.computed - job.reached)
        job.cached += found
        self.steps.cached += found
        job.reached += found

    def _computed(self, job: Job, size: int) -> None:
        """Take in that the next `size` tokens were computed; nobody pays for what was computed before."""
        tokens = self.blocks.block_tokens
        for block in range(job.computed // tokens, (job.computed + size) // tokens):
            self.blocks.publish(job.blocks[block], job.key(block, tokens))
        job.computed += size
        new = max(0, job.computed - job.reached)
        job.reached += new
        self.steps.recomputed += size - new
        if job.drawn == 0:
            self.steps.prompt += new
            self.shares.charge(job.tenant, PROMPT_COST * new)

    def _drop(self, job: Job) -> None:
        self.blocks.give_back(job.blocks)
        job.computed = 0

    def _preempt(self, job: Job) -> None:
        """Out of the batch, back into the queue. What it drew stays drawn; its KV will be computed again."""
        self._running.remove(job)
        self._drop(job)
        self._waiting.add(job)
        self.steps.preempted += 1

    def _grow(self, job: Job, token: Drawn) -> list[Outcome]:
        job.drawn += 1
        self.steps.drawn += 1
        self.shares.charge(job.tenant, DRAWN_COST)
        if token.token in job.stop_tokens:
            return [self._leave(job, Left(FinishReason.STOP, stop_token=token.token))]
        job.context.append(token.token)
        if job.guide is not None:
            job.guide.take(token.token)
            if job.guide.failed:
                return [self._leave(job, Left(error=InvalidGrammar(f"too complex to go on with: {job.guide.failed}")))]
            if job.guide.ended:
                return [(job, token), self._leave(job, Left(FinishReason.STOP))]
        if job.drawn < job.max_new:
            return [(job, token)]
        return [(job, token), self._leave(job, Left(FinishReason.LENGTH))]

    def _drawn(self, job: Job, drafted: int, drawn: Sequence[Drawn]) -> list[Outcome]:
        """Take in what was drawn, all but the first behind a draft: its right tokens are in the KV cache by now."""
        self.steps.drafted += drafted
        self.steps.accepted += len(drawn) - 1
        outcomes = self._grow(job, drawn[0])
        for token in drawn[1:]:
            if job not in self._running:
                break
            self._computed(job, 1)
            outcomes += self._grow(job, token)
        return outcomes

    def _score(self, job: Job, scored: Scored) -> list[Outcome]:
        job.scored += len(scored.logprobs)
        if job.scored < len(job.targets):
            return [(job, scored)]
        return [(job, scored), self._leave(job, Left(FinishReason.STOP))]

    def _leave(self, job: Job, event: Left) -> Outcome:
        self._running.remove(job)
        self.blocks.give_back(job.blocks)
        return job, event
