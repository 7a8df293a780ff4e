"""One score call: how likely given continuations are, item by item through everybody's batch.

Owns the order in which an item takes and returns what it uses, and how many items of a call are on
their way at once. Does not know how a lease, a place in the batch or a log-probability comes about.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, groupby
from typing import TypeAlias

from compute_worker.contract import Engine, Sampling, Scored
from compute_worker.runtime.activation import activation
from compute_worker.runtime.api import ItemScore, ScoreCall, ScoreItem
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.job import Admitted, Event, Job, Left
from compute_worker.runtime.line import Line
from compute_worker.runtime.loop import EngineLoop
from compute_worker.runtime.mailbox import Mailbox, no_room, submitted
from compute_worker.runtime.pool import Lease
from compute_worker.runtime.rights import rights
from compute_worker.runtime.scorecheck import check_scoring, fit_item, of_item
from compute_worker.runtime.tally import Busiest, Uses
from compute_worker.runtime.targets import Target, Targets
from compute_worker.runtime.tokenizers import Tokenizers, Wording
from compute_worker.runtime.validation import check_ids
from compute_worker.runtime.waiting import until
from compute_worker.wording import Tokenizer
from lorry.errors import Cancelled, DeadlineExceeded, LorryError

# Items of a call on their way at once: half of the default batch, so that answers find places beside them.
_WINDOW = 32
# Items that are tokenised in a row: some ten milliseconds of the thread that tokenises for everybody.
_AT_ONCE = 16
# Prompt and continuation.
_Text: TypeAlias = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class _Work:
    """A call whose items are resolved and tokenised."""

    call: ScoreCall
    place: int
    tenant: str
    targets: Sequence[Target]
    wordings: Sequence[Wording]
    texts: Sequence[_Text]


class Scorings:
    """Runs score calls. numbers: of jobs; requests: by adapter; both are everybody's. patience: seconds
    that an item waits for rows or KV where the call has no deadline.
    """

    def __init__(  # noqa: PLR0913 - the parts that an item goes through
        self,
        engine: Engine,
        tokenizers: Tokenizers,
        targets: Targets,
        cache: AdapterCache,
        loop: EngineLoop,
        *,
        line: Line,
        numbers: count[int],
        requests: Busiest[str, Uses],
        patience: float,
    ) -> None:
        self._engine = engine
        self._tokenizers = tokenizers
        self._targets = targets
        self._cache = cache
        self._loop = loop
        self._line = line
        self._numbers = numbers
        self._requests = requests
        self._patience = patience

    async def stream(self, call: ScoreCall) -> AsyncGenerator[ItemScore, None]:
        """One score an item, in the order in which they are done. Closing it frees everything within one step.

        Raises what validation, selection, cache and scheduler raise; the first failure ends the call.
        """
        check_scoring(call, self._engine.limits)
        place, tenant = next(self._numbers), rights().holder or call.tenant
        self._line.join(place, tenant)
        running: set[asyncio.Task[ItemScore]] = set()
        try:
            work = await self._prepared(call, place, tenant)
            waiting = iter(range(len(call.items)))
            while self._begin(work, waiting, running):
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
                running -= done
        finally:
            self._line.leave(place)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _begin(self, work: _Work, waiting: Iterator[int], running: set[asyncio.Task[ItemScore]]) -> bool:
        """Send items on their way as far as the window reaches; whether any is."""
        while len(running) < _WINDOW and (index := next(waiting, None)) is not None:
            running.add(asyncio.create_task(self._item(work, index)))
        return bool(running)

    async def _prepared(self, call: ScoreCall, place: int, tenant: str) -> _Work:
        async with until(call.deadline, lambda: DeadlineExceeded("the items were not read before the deadline")):
            targets = await self._targets.resolve(call.items)
            wordings = [await self._wording(index, target) for index, target in enumerate(targets)]
            texts = await _encoded(call.items, wordings, tenant)
        for index, (prompt, continuation) in enumerate(texts):
            with of_item(index):
                fit_item(len(prompt), len(continuation), self._engine.limits)
        return _Work(call, place, tenant, targets, wordings, texts)

    async def _wording(self, index: int, target: Target) -> Wording:
        with of_item(index):
            return await self._tokenizers.of(target.choices)

    async def _item(self, work: _Work, index: int) -> ItemScore:
        with of_item(index):
            target, (prompt, continuation) = work.targets[index], work.texts[index]
            lease = await self._cache.acquire(target.choices, work.call.deadline, tenant=work.tenant)
            for choice in target.choices:
                self._requests.of(choice.version.digest).count += 1
            mailbox = Mailbox(lambda: self._line.leave(work.place), lease.release)
            try:
                _check_ids(work.wordings[index], lease, prompt, continuation)
            except BaseException:
                lease.release()
                raise
            active = activation(rights().holder, target.choices, lease, prompt)
            job = Job(
                number=next(self._numbers),
                context=[*prompt, *continuation[:-1]],
                max_new=0,
                adapters=active.adapters,
                sampling=Sampling(),
                stop_tokens=frozenset(),
                sink=mailbox.take,
                tenant=work.tenant,
                priority=work.call.priority,
                scope=active.scope,
                later=active.later,
                targets=continuation,
            )
            with submitted(self._loop, job, mailbox):
                scored = await self._collected(work.call.deadline, mailbox)
            return replace(self._score(work, index, scored), inactive=active.inactive)

    async def _collected(self, deadline: float | None, mailbox: Mailbox) -> list[tuple[float, bool]]:
        """Log-probability and greedy or not of each token, once all have come."""
        patience = time.monotonic() + self._patience
        mailbox.limit(patience if deadline is None else deadline, no_room())
        scored: list[tuple[float, bool]] = []
        while True:
            for event in await mailbox.events():
                if isinstance(event, Admitted):
                    mailbox.limit(deadline, DeadlineExceeded("the deadline passed before everything was scored"))
                elif isinstance(event, Scored):
                    scored += zip(event.logprobs, event.greedy, strict=True)
                elif _is_last(event):
                    return scored

    def _score(self, work: _Work, index: int, scored: list[tuple[float, bool]]) -> ItemScore:
        target, (prompt, continuation) = work.targets[index], work.texts[index]
        return ItemScore(
            index=index,
            base_id=self._engine.base.base_id,
            adapters=tuple(choice.resolved for choice in target.choices),
            route=target.route,
            route_revision=target.revision,
            prompt_tokens=len(prompt),
            tokens=tuple(continuation),
            logprobs=tuple(logprob for logprob, _ in scored),
            greedy=tuple(greedy for _, greedy in scored),
            tokenizer=work.wordings[index].digest,
        )


async def _encoded(items: Sequence[ScoreItem], wordings: Sequence[Wording], tenant: str) -> list[_Text]:
    """(prompt, continuation) of each item: neighbours of one tokenizer together, and never so many that others wait."""
    texts: list[_Text] = []
    for wording, group in groupby(enumerate(items), key=lambda each: wordings[each[0]]):
        same = list(group)
        for begin in range(0, len(same), _AT_ONCE):
            some = same[begin : begin + _AT_ONCE]
            texts += await wording.texts.run(tenant, partial(_all, some, wording.tokenizer))
    return texts


def _all(items: Sequence[tuple[int, ScoreItem]], tokenizer: Tokenizer) -> list[_Text]:
    texts = []
    for index, item in items:
        with of_item(index):
            texts.append(_encode(item, tokenizer))
    return texts


def _encode(item: ScoreItem, tokenizer: Tokenizer) -> _Text:
    if item.text is not None and item.continuation is not None:
        return tokenizer.encode_pair(item.text, item.continuation)
    if item.text is not None:
        prompt, _ = tokenizer.encode_pair(item.text, "")
    elif item.chat is not None:
        prompt = tokenizer.encode_chat(item.chat)
    else:
        prompt = list(item.tokens or ())
    if item.continuation is None:
        return prompt, list(item.continuation_tokens or ())
    return prompt, tokenizer.encode_more(item.continuation)


def _check_ids(wording: Wording, lease: Lease, prompt: Sequence[int], continuation: Sequence[int]) -> None:
    vocab = wording.vocabulary(lease.vocab)
    check_ids("prompt token", prompt, vocab)
    check_ids("continuation token", continuation, vocab)


def _is_last(event: Event | LorryError) -> bool:
    """Whether everything was said. Raises what ended the item before that."""
    if isinstance(event, LorryError):
        raise event
    if isinstance(event, Left) and event.reason is None:
        raise event.error or Cancelled("the item was cancelled")
    return isinstance(event, Left)
