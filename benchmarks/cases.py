"""What is measured: each case does the same work once with Lorry and once with its peer.

Owns the work and the unit. Values are what a caller sees: Lorry's clock runs around gRPC calls, the
peer's inside its own process. Does not know repeats or reports.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Protocol

from benchmarks.measuring import Claim
from benchmarks.transfer import Pull, Push
from benchmarks.world import World, local, name_of

# Seeds from here on belong to adapters that must be new in every repeat, by case.
_COLD_SEEDS = 1_000
_LOAD_SEEDS = 2_000
_WARM_TURN = 900
_WARM_TOKENS = 4
_SWITCHES = 9


class Case(Protocol):
    """Something to measure. `prepare` is not timed; `ours` and `peer` give one value of repeat `turn`."""

    @property
    def claim(self) -> Claim:
        """What the values mean."""

    async def prepare(self, world: World) -> None:
        """Bring both sides to where they start, warm."""

    async def ours(self, world: World, turn: int) -> float:
        """Lorry's value."""

    async def peer(self, world: World, turn: int) -> float:
        """The peer's value."""


class Throughput:
    """New tokens a second, all requests together, from submit to last token, prefill included.

    requests: how many at once, None for as many as the scale says. adapters: how many different ones they
    use, in turn; 0 is the base alone, with adapters resident all the same.
    """

    def __init__(self, name: str, title: str, requests: int | None, adapters: int) -> None:
        self.claim = Claim(name, title, "tok/s", "PEFT", higher=True)
        self._requests = requests
        self._adapters = adapters

    async def prepare(self, world: World) -> None:
        """See Case."""
        await world.reside(self._resident(world))
        batch, names = self._work(world)
        await self._ours(world, batch, names, _WARM_TOKENS)
        await self._peer(world, batch, names, _WARM_TOKENS)

    async def ours(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Case."""
        batch, names = self._work(world)
        new_tokens = world.scale.new_tokens
        return len(batch) * new_tokens / await self._ours(world, batch, names, new_tokens)

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Case."""
        batch, names = self._work(world)
        new_tokens = world.scale.new_tokens
        return len(batch) * new_tokens / await self._peer(world, batch, names, new_tokens)

    def _work(self, world: World) -> tuple[Sequence[Sequence[int]], list[str | None]]:
        batch = world.prompts[: self._requests]
        return batch, [name_of(i % self._adapters) if self._adapters else None for i in range(len(batch))]

    def _resident(self, world: World) -> int:
        return max(world.scale.residents, min(self._adapters, len(world.prompts)))

    async def _ours(
        self, world: World, batch: Sequence[Sequence[int]], names: Sequence[str | None], new_tokens: int
    ) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(world.answer(p, name, new_tokens) for p, name in zip(batch, names, strict=True)))
        return time.perf_counter() - began

    async def _peer(
        self, world: World, batch: Sequence[Sequence[int]], names: Sequence[str | None], new_tokens: int
    ) -> float:
        return await world.peft.generate(batch, [name and local(name) for name in names], new_tokens)


class Cold:
    """Milliseconds from a request to its first token under an adapter that this side has never seen.

    Ours lies in the registry and is pulled; the peer's lies in a folder beside it.
    """

    claim = Claim("H", "cold adapter to first token", "ms", "PEFT", higher=False)

    async def prepare(self, world: World) -> None:
        """See Case."""
        await world.reside(world.scale.residents)
        await self.ours(world, _WARM_TURN)
        await self.peer(world, _WARM_TURN)

    async def ours(self, world: World, turn: int) -> float:
        """See Case."""
        name = await world.publish(_COLD_SEEDS + turn)
        return 1_000 * await world.answer(world.prompts[0], name, 1)

    async def peer(self, world: World, turn: int) -> float:
        """See Case."""
        folder = world.adapters.folder(_COLD_SEEDS + turn)
        return 1_000 * await world.peft.cold(f"cold-{turn}", folder, world.prompts[0])


class Switch:
    """Milliseconds of a switch to another resident adapter: Lorry's whole call, the peer's set_adapter alone.

    Adapters are named by digest, so that neither side has to look anything up elsewhere.
    """

    claim = Claim("switch", "switch to a resident adapter", "ms", "PEFT", higher=False)

    def __init__(self) -> None:
        self._references: list[str] = []

    async def prepare(self, world: World) -> None:
        """See Case."""
        names = await world.reside(world.scale.residents)
        self._references = [f"{name}@{(await world.registry.resolve(name)).digest}" for name in names]
        await self.ours(world, 0)
        await self.peer(world, 0)

    async def ours(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Case."""
        times = []
        for i in range(_SWITCHES):
            began = time.perf_counter()
            await world.worker.switch(self._references[i % len(self._references)])
            times.append(time.perf_counter() - began)
        await world.worker.switch({})
        return 1_000 * median(times)

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Case."""
        times = [await world.peft.switch(local(name_of(i % len(self._references)))) for i in range(_SWITCHES)]
        return 1_000 * median(times)


class LoadGrowth:
    """How many times as long as the first adapters' loads the last ones' take (median of two each)."""

    claim = Claim("load", "last load over first load", "x", "PEFT", higher=False)

    async def prepare(self, world: World) -> None:
        """See Case."""
        await self.ours(world, _WARM_TURN)

    async def ours(self, world: World, turn: int) -> float:
        """See Case."""
        await world.empty()
        names = [await world.publish(seed) for seed in _seeds(world, turn)]
        times = []
        for name in names:
            began = time.perf_counter()
            await world.worker.load(name)
            times.append(time.perf_counter() - began)
        return _growth(times)

    async def peer(self, world: World, turn: int) -> float:
        """See Case."""
        await world.empty()
        folders = [(local(name_of(seed)), world.adapters.folder(seed)) for seed in _seeds(world, turn)]
        return _growth([await world.peft.load(name, folder) for name, folder in folders])


def _seeds(world: World, turn: int) -> range:
    first = _LOAD_SEEDS + turn * world.scale.loads
    return range(first, first + world.scale.loads)


def _growth(times: Sequence[float]) -> float:
    return median(times[-2:]) / median(times[:2])


def cases() -> dict[str, Case]:
    """All of them by name, in the order in which they run."""
    every: list[Case] = [
        Throughput("A", "1 request, base", 1, 0),
        Throughput("B", "1 request, 1 adapter", 1, 1),
        Throughput("C", "32 requests, base", None, 0),
        Throughput("D", "32 requests, 1 adapter", None, 1),
        Throughput("E", "32 requests, 8 adapters", None, 8),
        Cold(),
        Switch(),
        Throughput("F", "32 requests, 32 adapters", None, 32),
        LoadGrowth(),
        Push(),
        Pull(),
    ]
    return {case.claim.name: case for case in every}
