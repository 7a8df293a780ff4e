"""One generate call from arrival to its last event.

Owns the order in which a request takes and returns what it uses: its place in the queue, its
adapters' lease, its job in the scheduler. Does not know how any of these is kept.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from compute_worker.contract import Engine, Sampling
from compute_worker.runtime.activation import Activation, activation
from compute_worker.runtime.aims import Aim, Aims, scaled
from compute_worker.runtime.answer import Answer
from compute_worker.runtime.api import Delta, Finished, GenerateCall, Started
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.job import Admitted, Event, Job
from compute_worker.runtime.line import Line
from compute_worker.runtime.lookup import PromptLookup
from compute_worker.runtime.loop import EngineLoop
from compute_worker.runtime.mailbox import Mailbox, no_room, submitted
from compute_worker.runtime.pool import Lease
from compute_worker.runtime.rights import rights
from compute_worker.runtime.sessions import Served
from compute_worker.runtime.tally import Busiest, Uses
from compute_worker.runtime.tokenizers import Tokenizers, Wording
from compute_worker.runtime.traffic import Traffic
from compute_worker.runtime.validation import check_call, check_ids, fit
from compute_worker.runtime.version import Choice
from compute_worker.runtime.waiting import until
from compute_worker.wording import Guide, Tokenizer
from lorry.errors import DeadlineExceeded, LorryError

# A seed is a uint64 on the wire; drawn ones stay below 2^63, so that languages without unsigned
# integers can send them back.
_SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class _Ready:
    """A request that can be served. choices: those of `served`, scaled."""

    served: Served
    choices: tuple[Choice, ...]
    wording: Wording
    prompt: list[int]
    max_new: int
    guide: Guide | None
    lease: Lease


class Generations:
    """Runs generate calls. patience: seconds that one waits for rows or KV where it has no deadline."""

    def __init__(
        self,
        engine: Engine,
        tokenizers: Tokenizers,
        aims: Aims,
        cache: AdapterCache,
        loop: EngineLoop,
        *,
        line: Line,
        patience: float,
    ) -> None:
        self._engine = engine
        self._tokenizers = tokenizers
        self._aims = aims
        self._cache = cache
        self._loop = loop
        self._line = line
        self._patience = patience
        self.numbers = count()  # of the jobs in the scheduler; others draw from it, too
        self.requests = Busiest[str, Uses](Uses)
        self.traffic = Traffic()

    async def stream(self, call: GenerateCall) -> AsyncGenerator[Started | Delta | Finished, None]:
        """Started, then deltas, then Finished. Closing it frees everything within one step.

        Raises what validation, selection, cache and scheduler raise.
        """
        check_call(call, self._engine.limits)
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
            ready = await self._settled(call, aim, tenant, begin_by)
            for choice in ready.choices:
                self.requests.of(choice.version.digest).count += 1
        except BaseException:
            self._line.leave(number)
            raise
        active = activation(rights().holder, ready.choices, ready.lease, ready.prompt)
        # A stop string is to end the text before the next step, so each token is looked at.
        gather = 1 if call.stop.strings else call.stream_interval
        mailbox = Mailbox(lambda: self._line.leave(number), ready.lease.release, gather)
        job = self._job(call, number, ready, active, replace(call.sampling, seed=seed), mailbox.take)
        job.tenant, job.priority = tenant, call.priority
        with submitted(self._loop, job, mailbox):
            started = self._started(call, aim, ready, active, seed)
            answer = Answer(ready.wording.tokenizer, call.stop)
            async with aclosing(self._follow(call, mailbox, answer, started, begin_by)) as items:
                async for item in items:
                    # What the job counts of the cache is final once its first token is here.
                    yield item if isinstance(item, Delta) else replace(item, cached_tokens=job.cached)

    async def _follow(
        self, call: GenerateCall, mailbox: Mailbox, answer: Answer, started: Started, begin_by: float | None
    ) -> AsyncGenerator[Started | Delta | Finished, None]:
        patience = time.monotonic() + self._patience
        mailbox.limit(patience if begin_by is None else begin_by, no_room())
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

    async def _settled(self, call: GenerateCall, aim: Aim, tenant: str, limit: float | None) -> _Ready:
        """What serves the request, and all that it needs; something else where its session has begun meanwhile."""
        async with until(limit, lambda: DeadlineExceeded("the adapters were not resolved before the deadline")):
            served = await self._aims.served(aim)
        ready = await self._ready(call, served, tenant, limit)
        try:
            kept = self._aims.settle(call, aim, served)
        except LorryError:
            ready.lease.release()
            raise
        if kept is served:
            return ready
        ready.lease.release()
        return await self._ready(call, kept, tenant, limit)

    async def _ready(self, call: GenerateCall, served: Served, tenant: str, limit: float | None) -> _Ready:
        choices = scaled(served.choices, call.scale)
        async with until(limit, lambda: DeadlineExceeded("the prompt and its form were not read before the deadline")):
            wording = await self._tokenizers.of(choices)
            prompt = await _encode(call, wording, tenant)
            max_new = fit(len(prompt), call.stop.max_new_tokens, self._engine.limits)
            # Of an adapter's own tokens it is only then known whether its vocabulary has room for them.
            guide = None if wording.tokens else await self._guide(call, wording.tokenizer, tenant)
        lease = await self._cache.acquire(choices, limit, tenant=tenant)
        try:
            vocab = wording.vocabulary(lease.vocab)
            check_ids("prompt token", prompt, vocab)
            check_ids("stop token", call.stop.token_ids, vocab)
            if wording.tokens or lease.vocab is not None:
                guide = await self._guide(call, wording.tokenizer, tenant, vocab)
        except BaseException:
            lease.release()
            raise
        return _Ready(served, choices, wording, prompt, max_new, guide, lease)

    async def _guide(
        self, call: GenerateCall, tokenizer: Tokenizer, tenant: str, vocab: int | None = None
    ) -> Guide | None:
        if call.constraint is None:
            return None
        compiled = tokenizer.ready_guide(call.constraint, vocab)
        if compiled is not None:
            return compiled
        return await self._tokenizers.forms.run(tenant, partial(tokenizer.guide, call.constraint, vocab))

    def _job(
        self,
        call: GenerateCall,
        number: int,
        ready: _Ready,
        active: Activation,
        sampling: Sampling,
        sink: Callable[[Event], None],
    ) -> Job:
        stops = frozenset(call.stop.token_ids)
        return Job(
            number=number,
            context=ready.prompt,
            max_new=ready.max_new,
            adapters=active.adapters,
            sampling=sampling,
            stop_tokens=stops if call.stop.ignore_eos else stops | ready.wording.tokenizer.eos_ids,
            sink=sink,
            scope=active.scope,
            later=active.later,
            guide=ready.guide,
            # What a form allows behind a guess would have to be known before the guess is verified.
            lookup=PromptLookup() if ready.guide is None else None,
        )

    def _started(self, call: GenerateCall, aim: Aim, ready: _Ready, active: Activation, seed: int) -> Started:
        before = [choice.resolved for choice in aim.before.choices] if aim.before else None
        served = ready.served
        return Started(
            base_id=self._engine.base.base_id,
            adapters=tuple(choice.resolved for choice in ready.choices),
            route=served.route,
            route_revision=served.revision,
            prompt_tokens=len(ready.prompt),
            seed=seed,
            branch=served.branch,
            new_session=bool(call.session) and before != [choice.resolved for choice in served.choices],
            tokenizer=ready.wording.digest,
            inactive=active.inactive,
        )


async def _encode(call: GenerateCall, wording: Wording, tenant: str) -> list[int]:
    if call.tokens is not None:
        return list(call.tokens)
    tokenizer = wording.tokenizer
    if call.chat is not None:
        return await wording.texts.run(tenant, partial(tokenizer.encode_chat, call.chat))
    return await wording.texts.run(tenant, partial(tokenizer.encode, call.text or ""))


def _begin_by(call: GenerateCall) -> float | None:
    """The moment by which it must run; None where it does not say."""
    if call.begin_within is None:
        return call.deadline
    moment = time.monotonic() + call.begin_within
    return moment if call.deadline is None else min(moment, call.deadline)
