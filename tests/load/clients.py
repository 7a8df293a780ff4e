"""One client of the load: requests, scores and conversations, one after the other, as fast as they are answered.

Owns what the client remembers: the adapters of its sessions. Judges at once what serves an answer; its
tokens are judged later. Does not know the reference.
"""

from __future__ import annotations

import random
import time

from lorry import WorkerClient
from lorry.errors import LorryError, NotFound
from lorry.scoring import Item
from lorry.v1.inference_pb2 import GenerateResponse
from tests.load.asking import Asked, draw_prompt, draw_request, draw_selection, draw_session, draw_turn
from tests.load.meanings import Meanings, Selection
from tests.load.record import Output, Record, Scored
from tests.support.registry import DEADLINE

_SESSIONS = 2
_TURNS = 8
_ITEMS = 3


class Client:
    """number: whose random numbers these are."""

    def __init__(self, worker: WorkerClient, meanings: Meanings, record: Record, seed: int, number: int) -> None:
        self._worker = worker
        self._meanings = meanings
        self._record = record
        self._name = f"client-{number}"
        self._draw = random.Random(f"{seed} {self._name}")  # noqa: S311 - the same in each run
        self._begun = 0
        self._sessions: dict[str, tuple[Selection | str, Selection | None]] = {}  # what began it, what it keeps

    async def run(self) -> None:
        """Ask until the load is over."""
        while not self._record.over:
            kind = self._draw.random()
            try:
                if kind < 0.06:
                    await self._score()
                elif kind < 0.25:
                    await self._turn()
                else:
                    await self._ask(draw_request(self._draw, self._meanings.combined))
            except LorryError as error:
                self._record.refuse(error)

    async def _ask(self, asked: Asked, kept: Selection | None = None) -> Selection | None:
        """Send a request; what served it, None where the client left before that was said.

        kept: what it has to be served with, whatever its target means now.
        """
        begin, reading = time.monotonic(), _Reading(asked)
        try:
            async with self._worker.generate(timeout=asked.timeout or DEADLINE, **asked.options()) as messages:
                async for message in messages:
                    if message.HasField("started"):
                        reading.served = tuple((one.digest, one.weight) for one in message.started.adapters)
                        self._check(asked, kept, reading.served, (begin, time.monotonic()))
                    reading.take(message)
                    if reading.impatient:
                        break
        except NotFound:
            # Nobody keeps the bytes of a combination that was not published.
            if not self._forget(asked.target):
                raise
        finally:
            if reading.served is not None:
                self._record.cancelled += reading.reason == 0
                self._record.outputs.append(reading.output(reading.served))
        return reading.served

    def _check(self, asked: Asked, kept: Selection | None, served: Selection, span: tuple[float, float]) -> None:
        right = self._meanings.allows(asked.target, asked.scale, served, span) if kept is None else served == kept
        if not right:
            self._record.wrong.append(f"{self._name}: {asked} was served by {served}, kept {kept}")

    async def _turn(self) -> None:
        """A turn of a conversation, which keeps its adapters until it follows."""
        if len(self._sessions) < _SESSIONS:
            self._begun += 1
            self._sessions[f"{self._name}-{self._begun}"] = (draw_session(self._draw), None)
        session = self._draw.choice(list(self._sessions))
        target, kept = self._sessions.pop(session)
        follow = kept is not None and self._draw.random() < 0.1
        # Where it fails before it is served, nobody knows what the session keeps: it is not gone on with.
        served = await self._ask(draw_turn(self._draw, session, target, follow=follow), kept=None if follow else kept)
        if self._draw.random() > 1 / _TURNS:
            self._sessions[session] = (target, served)
        self._record.actions["turns"] += 1

    async def _score(self) -> None:
        texts = [(draw_prompt(self._draw), draw_prompt(self._draw)) for _ in range(self._draw.randint(1, _ITEMS))]
        asked = [Asked(draw_selection(self._draw, self._meanings.combined), prompt, 0) for prompt, _ in texts]
        items = [
            Item(prompt=prompt, continuation=continuation, adapters=list(each.target))
            for (prompt, continuation), each in zip(texts, asked, strict=True)
        ]
        begin = time.monotonic()
        try:
            async for answer in self._worker.score(items, timeout=DEADLINE):
                served = tuple((one.digest, one.weight) for one in answer.adapters)
                self._check(asked[answer.index], None, served, (begin, time.monotonic()))
                tokens = tuple((one.token_id, one.logprob, one.greedy) for one in answer.tokens)
                self._record.scores.append(Scored(*texts[answer.index], served, tokens))
        except NotFound:
            if not any(self._forget(each.target) for each in asked):
                raise

    def _forget(self, target: Selection | str) -> bool:
        """A combination is not there any more; whether it was one that was asked for."""
        gone = [reference for reference, _ in target if reference.startswith("combined@")]
        for reference in set(gone).intersection(self._meanings.combined):
            self._meanings.combined.remove(reference)
            self._record.actions["combinations gone"] += 1
        return bool(gone)


class _Reading:
    """An answer as it comes in."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._text = ""
        self.served: Selection | None = None
        self.reason = 0

    @property
    def impatient(self) -> bool:
        """Whether the client has enough of it."""
        patience = self._asked.patience
        return patience is not None and not self.reason and len(self._tokens) >= patience

    def take(self, message: GenerateResponse) -> None:
        """One more message."""
        self._tokens += message.delta.token_ids
        self._logprobs += (one.logprob for one in message.delta.logprobs)
        self._text += message.delta.text
        self.reason = message.finished.reason

    def output(self, served: Selection) -> Output:
        """What there is of it."""
        return Output(self._asked, served, tuple(self._tokens), tuple(self._logprobs), self._text, self.reason)
