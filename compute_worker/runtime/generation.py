"""One generate call from arrival to its last event.

Owns the order in which a request takes and returns what it uses: its place in the queue, its
adapters' lease, its job in the scheduler. Does not know how any of these is kept.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace
from itertools import count

from compute_worker.contract import Engine
from compute_worker.runtime.aims import Aim, Aims, scaled
from compute_worker.runtime.answer import Answer
from compute_worker.runtime.api import Delta, Finished, GenerateCall, Started
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.job import Admitted, Event, Job
from compute_worker.runtime.line import Line
from compute_worker.runtime.loop import EngineLoop
from compute_worker.runtime.mailbox import Mailbox, submitted
from compute_worker.runtime.pool import Lease
from compute_worker.runtime.prefix import beginning
from compute_worker.runtime.rights import rights
from compute_worker.runtime.sessions import Served
from compute_worker.runtime.tally import Busiest, Uses
from compute_worker.runtime.traffic import Traffic
from compute_worker.runtime.validation import check_call, fit
from compute_worker.runtime.waiting import until
from compute_worker.wording import Guide, Tokenizer
from lorry.errors import CacheBusy, DeadlineExceeded, LorryError

# A seed is a uint64 on the wire; drawn ones stay below 2^63, so that languages without unsigned
# integers can send them back.
_SEED_BITS = 63


class Generations:
    """Runs generate calls. patience: seconds that one waits for rows or KV where it has no deadline."""

    def __init__(  # noqa: PLR0913 - the parts that a request goes through
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        aims: Aims,
        cache: AdapterCache,
        loop: EngineLoop,
        *,
        executor: Executor,
        line: Line,
        patience: float,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._aims = aims
        self._cache = cache
        self._loop = loop
        self._executor = executor
        self._line = line
        self._patience = patience
        self.numbers = count()  # of the jobs in the scheduler; others draw from it, too
        self.requests = Busiest[str, Uses](Uses)
        self.traffic = Traffic()

    async def stream(self, call: GenerateCall) -> AsyncGenerator[Started | Delta | Finished, None]:
        """Started, then deltas, then Finished. Closing it frees everything within one step.

        Raises what validation, selection, cache and scheduler raise.
        """
        check_call(call, self._engine.limits, self._tokenizer.vocab_size)
        seed = secrets.randbits(_SEED_BITS) if call.seed is None else call.seed
        aim = self._aims.aim(call, seed)
        with self.traffic.watching(aim.label) as requests:
            async with aclosing(self._answer(call, aim, seed)) as items:
                async for item in items:
                    requests.take(item)
                    yield item

    async def _answer(
        self, call: GenerateCall, aim: Aim, seed: int
    ) -> AsyncGenerator[Started | Delta | Finished, None]:
        number = next(self.numbers)
        tenant, begin_by = rights().holder or call.tenant, _begin_by(call)
        self._line.join(number, tenant)
        try:
            prompt = await self._encode(call)
            max_new = fit(len(prompt), call.stop.max_new_tokens, self._engine.limits)
            guide = await self._guide(call)
            served, lease = await self._lease(call, aim, begin_by)
            choices = scaled(served.choices, call.scale)
            for choice in choices:
                self.requests.of(choice.version.digest).count += 1
        except BaseException:
            self._line.leave(number)
            raise
        mailbox = Mailbox(lambda: self._line.leave(number), lease.release)
        job = self._job(call, number, prompt, max_new, lease, seed, mailbox.take)
        job.tenant, job.priority, job.scope = tenant, call.priority, beginning(rights().holder, choices)
        job.guide = guide
        with submitted(self._loop, job, mailbox):
            started = self._started(call, aim, served, len(prompt), seed)
            async with aclosing(self._follow(call, mailbox, started, begin_by)) as items:
                async for item in items:
                    # What the job counts of the cache is final once its first token is here.
                    yield item if isinstance(item, Delta) else replace(item, cached_tokens=job.cached)

    async def _follow(
        self, call: GenerateCall, mailbox: Mailbox, started: Started, begin_by: float | None
    ) -> AsyncGenerator[Started | Delta | Finished, None]:
        patience = time.monotonic() + self._patience
        busy = CacheBusy("no room in the batch or in the KV cache became free in time")
        mailbox.limit(patience if begin_by is None else begin_by, busy)
        answer = Answer(self._tokenizer, call.stop)
        waiting = True
        while True:
            events = await mailbox.events()
            if waiting and isinstance(events[0], Admitted):
                waiting = False
                mailbox.limit(call.deadline, DeadlineExceeded("the deadline passed before the text was complete"))
                yield started
            for item in answer.feed(events):
                yield item
                if isinstance(item, Finished):
                    return

    async def _encode(self, call: GenerateCall) -> list[int]:
        if call.tokens is not None:
            return list(call.tokens)
        loop = asyncio.get_running_loop()
        if call.chat is not None:
            return await loop.run_in_executor(self._executor, self._tokenizer.encode_chat, call.chat)
        return await loop.run_in_executor(self._executor, self._tokenizer.encode, call.text or "")

    async def _guide(self, call: GenerateCall) -> Guide | None:
        if call.constraint is None:
            return None
        # Not beside the texts: a form may take seconds to be compiled.
        return await asyncio.to_thread(self._tokenizer.guide, call.constraint)

    async def _lease(self, call: GenerateCall, aim: Aim, limit: float | None) -> tuple[Served, Lease]:
        """What serves the request, and a lease on that; it is something else where its session has begun meanwhile."""
        async with until(limit, lambda: DeadlineExceeded("the adapters were not resolved before the deadline")):
            served = await self._aims.served(aim)
        lease = await self._cache.acquire(scaled(served.choices, call.scale), limit)
        try:
            kept = self._aims.settle(call, aim, served)
        except LorryError:
            lease.release()
            raise
        if kept is served:
            return served, lease
        lease.release()
        return kept, await self._cache.acquire(scaled(kept.choices, call.scale), limit)

    def _job(
        self,
        call: GenerateCall,
        number: int,
        prompt: list[int],
        max_new: int,
        lease: Lease,
        seed: int,
        sink: Callable[[Event], None],
    ) -> Job:
        stops = frozenset(call.stop.token_ids)
        return Job(
            number=number,
            context=prompt,
            max_new=max_new,
            adapters=lease.adapters,
            sampling=replace(call.sampling, seed=seed),
            stop_tokens=stops if call.stop.ignore_eos else stops | self._tokenizer.eos_ids,
            sink=sink,
        )

    def _started(self, call: GenerateCall, aim: Aim, served: Served, prompt_tokens: int, seed: int) -> Started:
        before = [choice.resolved for choice in aim.before.choices] if aim.before else None
        return Started(
            base_id=self._engine.base.base_id,
            adapters=tuple(choice.resolved for choice in scaled(served.choices, call.scale)),
            route=served.route,
            route_revision=served.revision,
            prompt_tokens=prompt_tokens,
            seed=seed,
            branch=served.branch,
            new_session=bool(call.session) and before != [choice.resolved for choice in served.choices],
        )


def _begin_by(call: GenerateCall) -> float | None:
    """The moment by which it must run; None where it does not say."""
    if call.begin_within is None:
        return call.deadline
    moment = time.monotonic() + call.begin_within
    return moment if call.deadline is None else min(moment, call.deadline)
