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

from compute_worker.contract import Engine, Tokenizer
from compute_worker.runtime.answer import Answer
from compute_worker.runtime.api import Delta, Finished, GenerateCall, Started
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.loop import EngineLoop
from compute_worker.runtime.pool import Lease
from compute_worker.runtime.routes import Route, Routes
from compute_worker.runtime.scheduler import Admitted, Event, Job, Left
from compute_worker.runtime.selection import Resolver
from compute_worker.runtime.tally import Busiest
from compute_worker.runtime.validation import check_call, fit
from compute_worker.runtime.version import Choice
from compute_worker.runtime.waiting import until
from lorry.errors import CacheBusy, DeadlineExceeded, LorryError, QueueFull

# A seed is a uint64 on the wire; drawn ones stay below 2^63, so that languages without unsigned
# integers can send them back.
_SEED_BITS = 63


class Line:
    """The requests that wait for adapters or for the batch, `limit` at most."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting: set[int] = set()

    def join(self, number: int) -> None:
        """Wait, too. Raises QueueFull."""
        if len(self.waiting) >= self.limit:
            raise QueueFull(f"{len(self.waiting)} requests wait, which is as many as may")
        self.waiting.add(number)

    def leave(self, number: int) -> None:
        """Wait no longer. A second time does nothing."""
        self.waiting.discard(number)


class _Mailbox:
    """Where the engine's thread leaves a request's events, and what happens at once when it is out."""

    def __init__(self, admitted: Callable[[], None], released: Callable[[], None]) -> None:
        self.left = False
        self._admitted = admitted
        self._released = released
        self._events: asyncio.Queue[Event | LorryError] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, event: Event) -> None:
        """Take an event. Called on the event loop."""
        if isinstance(event, Admitted | Left):
            self._admitted()
        if isinstance(event, Left):
            self.left = True
            self._released()
        self._events.put_nowait(event)

    def limit(self, moment: float | None, error: LorryError) -> None:
        """Put `error` among the events at this moment (time.monotonic()'s clock), in place of an earlier limit."""
        self.stop_clock()
        if moment is not None:
            delay = max(0.0, moment - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._events.put_nowait, error)

    def stop_clock(self) -> None:
        """No limit any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def events(self) -> list[Event | LorryError]:
        """Everything that came since; waits for one event at least."""
        events = [await self._events.get()]
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events


class Generations:
    """Runs generate calls. patience: seconds that one waits for rows or KV where it has no deadline."""

    def __init__(  # noqa: PLR0913 - the parts that a request goes through
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        resolver: Resolver,
        routes: Routes,
        cache: AdapterCache,
        loop: EngineLoop,
        *,
        executor: Executor,
        line: Line,
        patience: float,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._resolver = resolver
        self._routes = routes
        self._cache = cache
        self._loop = loop
        self._executor = executor
        self._line = line
        self._patience = patience
        self._numbers = count()
        self.requests = Busiest()

    async def stream(self, call: GenerateCall) -> AsyncGenerator[Started | Delta | Finished, None]:
        """Started, then deltas, then Finished. Closing it frees everything within one step.

        Raises what validation, selection, cache and scheduler raise.
        """
        check_call(call, self._engine.limits, self._tokenizer.vocab_size)
        number = next(self._numbers)
        self._line.join(number)
        try:
            route = self._routes.get(call.route) if call.selection is None else None
            prompt = await self._encode(call)
            max_new = fit(len(prompt), call.stop.max_new_tokens, self._engine.limits)
            choices = await self._choices(call, route)
            lease = await self._cache.acquire(choices, call.deadline)
            for choice in choices:
                self.requests.add(choice.version.digest)
        except BaseException:
            self._line.leave(number)
            raise
        mailbox = _Mailbox(lambda: self._line.leave(number), lease.release)
        seed = secrets.randbits(_SEED_BITS) if call.seed is None else call.seed
        job = self._job(call, number, prompt, max_new, lease, seed, mailbox.take)
        self._loop.submit(job)
        try:
            started = self._started(choices, route, len(prompt), seed)
            async with aclosing(self._follow(call, mailbox, started)) as items:
                async for item in items:
                    yield item
        finally:
            mailbox.stop_clock()
            if not mailbox.left:
                self._loop.cancel(job)

    async def _follow(
        self, call: GenerateCall, mailbox: _Mailbox, started: Started
    ) -> AsyncGenerator[Started | Delta | Finished, None]:
        patience = time.monotonic() + self._patience if call.deadline is None else call.deadline
        mailbox.limit(patience, CacheBusy("no room in the batch or in the KV cache became free in time"))
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

    async def _choices(self, call: GenerateCall, route: Route | None) -> tuple[Choice, ...]:
        async with until(call.deadline, lambda: DeadlineExceeded("the adapters were not resolved before the deadline")):
            if route is not None:
                return await self._routes.choices(route)
            return await self._resolver.choose(call.selection or ())

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

    def _started(self, choices: tuple[Choice, ...], route: Route | None, prompt_tokens: int, seed: int) -> Started:
        return Started(
            base_id=self._engine.base.base_id,
            adapters=tuple(choice.resolved for choice in choices),
            route=route.state.name if route else "",
            route_revision=route.state.revision if route else 0,
            prompt_tokens=prompt_tokens,
            seed=seed,
        )
