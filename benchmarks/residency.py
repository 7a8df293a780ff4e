"""Cases about adapters coming and going: first token of a cold one, switches, many loads, memory.

Owns the work. Values are what a caller sees: our clock runs around gRPC calls, the peer's inside its
own process. Does not know repeats.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from benchmarks.measuring import Claim
from benchmarks.world import PROMPT_TOKENS, World, local, name_of

# Seeds from here on belong to adapters that must be new in every repeat, by case.
_COLD_SEEDS = 1_000
_LOAD_SEEDS = 2_000
_WARM_TURN = 900
_SWITCHES = 9
_MEGABYTE = 1e6


class Cold:
    """Milliseconds from a request to its first token under an adapter that this side has never seen.

    Ours lies in the registry and is pulled; the peer's lies in a folder beside it.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        await world.reside(world.scale.residents)
        await self.ours(world, _WARM_TURN)
        await self.peer(world, _WARM_TURN)

    async def ours(self, world: World, turn: int) -> float:
        """See Measurable."""
        name = await world.publish(_COLD_SEEDS + turn)
        return 1_000 * await world.answer(world.prompts.fresh(1, PROMPT_TOKENS)[0], name, 1)

    async def peer(self, world: World, turn: int) -> float:
        """See Measurable."""
        folder = world.adapters.folder(_COLD_SEEDS + turn)
        return 1_000 * await world.peer.cold(f"cold-{turn}", folder, world.prompts.fresh(1, PROMPT_TOKENS)[0])


class Switch:
    """Milliseconds of a switch to another resident adapter: Lorry's whole call, the peer's set_adapter alone.

    Adapters are named by digest, so that neither side has to look anything up elsewhere.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._references: list[str] = []

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        # As many as are resident once the last of the loads of `load` is done, and one more.
        names = await world.reside(world.scale.loads + 1)
        self._references = [f"{name}@{(await world.registry.resolve(name)).digest}" for name in names]
        await self.ours(world, 0)
        await self.peer(world, 0)

    async def ours(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        times = []
        for i in range(_SWITCHES):
            began = time.perf_counter()
            await world.worker.switch(self._references[i % len(self._references)])
            times.append(time.perf_counter() - began)
        await world.worker.switch({})
        return 1_000 * median(times)

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        times = [await world.peer.switch(local(name_of(i % len(self._references)))) for i in range(_SWITCHES)]
        return 1_000 * median(times)


class LoadGrowth:
    """How many times as long as the first adapters' loads the last ones' take (median of two each)."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        await self.ours(world, _WARM_TURN)

    async def ours(self, world: World, turn: int) -> float:
        """See Measurable."""
        await world.empty()
        names = [await world.publish(seed) for seed in _seeds(world, turn)]
        times = []
        for name in names:
            began = time.perf_counter()
            await world.worker.load(name)
            times.append(time.perf_counter() - began)
        return _growth(times)

    async def peer(self, world: World, turn: int) -> float:
        """See Measurable."""
        await world.empty()
        folders = [(local(name_of(seed)), world.adapters.folder(seed)) for seed in _seeds(world, turn)]
        return _growth([await world.peer.load(name, folder) for name, folder in folders])


class Memory:
    """Megabytes that a process has in memory once it has served a request under each of the pool's adapters."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        names = await world.reside(world.scale.requests)
        for name in names:
            await world.answer(world.prompts.fresh(1, PROMPT_TOKENS)[0], name, 1)
        for name in names:
            await world.peer.generate(world.prompts.fresh(1, PROMPT_TOKENS), [local(name)], 1)

    async def ours(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        return world.worker_bytes / _MEGABYTE

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        return world.peer.rss_bytes / _MEGABYTE


def _seeds(world: World, turn: int) -> range:
    first = _LOAD_SEEDS + turn * world.scale.loads
    return range(first, first + world.scale.loads)


def _growth(times: Sequence[float]) -> float:
    return median(times[-2:]) / median(times[:2])
