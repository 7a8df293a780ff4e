"""Cases A to F, I and J: generations of many requests at once, timed from submit to last token.

Owns the batches and who uses which adapter. Does not know repeats, nor who the peer is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.measuring import Claim
from benchmarks.world import PROMPT_TOKENS, World, local, name_of

_WARM_TOKENS = 4
_LONG_NEW_TOKENS = 8


class Batch:
    """Requests that come together, each turn with new prompts, the same ones for both sides.

    requests: how many, None for as many as the scale says. adapters: how many different ones they use, in
    turn; 0 is the base alone, with adapters resident all the same.
    """

    def __init__(self, claim: Claim, requests: int | None, adapters: int) -> None:
        self.claim = claim
        self._requests = requests
        self._adapters = adapters
        self._batch: Sequence[Sequence[int]] = []

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        await world.reside(max(world.scale.residents, min(self._adapters, world.scale.requests)))
        await self._ours(world, _WARM_TOKENS)
        await self._peer(world, _WARM_TOKENS)

    def _fresh(self, world: World) -> list[list[int]]:
        return world.prompts.fresh(self._requests or world.scale.requests, PROMPT_TOKENS)

    def _names(self) -> list[str | None]:
        return [name_of(i % self._adapters) if self._adapters else None for i in range(len(self._batch))]

    async def _ours(self, world: World, new_tokens: int) -> float:
        """Seconds of a batch, which the peer then gets, too."""
        self._batch = self._fresh(world)
        work = zip(self._batch, self._names(), strict=True)
        began = world.now()
        await asyncio.gather(*(world.answer(prompt, name, new_tokens) for prompt, name in work))
        return world.now() - began

    async def _peer(self, world: World, new_tokens: int) -> float:
        return await world.peer.generate(self._batch, [name and local(name) for name in self._names()], new_tokens)


class Throughput(Batch):
    """New tokens a second, all requests together, prefill included."""

    async def ours(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        new_tokens = world.scale.new_tokens
        seconds = await self._ours(world, new_tokens)
        return len(self._batch) * new_tokens / seconds

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        new_tokens = world.scale.new_tokens
        return len(self._batch) * new_tokens / await self._peer(world, new_tokens)


class LongPrompts(Batch):
    """Seconds of long prompts with short answers."""

    def __init__(self, claim: Claim, adapters: int) -> None:
        super().__init__(claim, None, adapters)

    async def ours(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        return await self._ours(world, _LONG_NEW_TOKENS)

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        return await self._peer(world, _LONG_NEW_TOKENS)

    def _fresh(self, world: World) -> list[list[int]]:
        return world.prompts.fresh(world.scale.long_requests, world.scale.long_tokens)
