"""Many clients at once, with loads, evictions, cancels and switches in between: no answer may differ.

The reference is the serial one: what each request gets depends on itself and its adapters alone.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from compute_worker.contract import EngineLimits, PublishedAdapter, Sampling
from compute_worker.runtime.api import Delta, GenerateCall, Started, Stop, Weighted
from lorry.errors import AdapterInUse, AdapterPinned
from tests.support.toy_engine import ToyEngine
from tests.support.toy_world import World, call, running

CLIENTS, REQUESTS = 16, 12
RANKS = (1, 2, 3, 4, 5, 6, 2, 3)
# Twelve rows for 26 ranks, and KV for some eight requests: everybody is in everybody's way.
TIGHT = EngineLimits(pool_rows=12, row_bytes=10, kv_blocks=80, block_tokens=4, max_context=64)


@pytest.fixture
async def crowded(tmp_path: Path) -> AsyncIterator[World]:
    engine = ToyEngine(TIGHT, step_seconds=0.0005, install_seconds=0.002)
    sizes = {"host_bytes": 8_000, "disk_bytes": 40_000, "prefill_tokens": 8, "max_batch": 8, "default_wait": 60.0}
    async with running(tmp_path, engine=engine, limits=TIGHT, **sizes) as world:
        for n, rank in enumerate(RANKS):
            world.registry.add(f"a{n}", rank=rank)
        world.registry.add("dora", rank=3, dora=True)
        yield world


def draw_request(draw: random.Random) -> GenerateCall:
    """Base, one adapter, DoRA, or a weighted pair; greedy or seeded; short or long."""
    names = draw.choice([[], ["a0"], [f"a{draw.randrange(8)}"], ["dora"], [f"a{n}" for n in draw.sample(range(8), 2)]])
    weighted = [Weighted(name, draw.choice([1.0, 0.5, -2.0]) if len(names) == 2 else 1.0) for name in names]
    sampling = Sampling(temperature=draw.choice([0.0, 1.0]), seed=7)
    prompt = [draw.randrange(256) for _ in range(draw.randrange(1, 24))]
    stop = Stop(max_new_tokens=draw.randrange(1, 20))
    return call(prompt, *weighted, sampling=sampling, seed=7, stop=stop)


async def adapters(world: World, request: GenerateCall) -> list[tuple[PublishedAdapter, float]]:
    return [(await world.registry.resolve(item.adapter), item.weight) for item in request.selection or ()]


async def client(world: World, seed: int) -> int:
    """Send requests, leave some in their midst; answers the number of wrong ones."""
    draw, wrong = random.Random(seed), 0  # noqa: S311 - a repeatable mix
    for _ in range(REQUESTS):
        request = draw_request(draw)
        expected = world.expected(request, *await adapters(world, request))
        patience = draw.choice([None, None, 0, 2])
        tokens: list[int] = []
        async with aclosing(world.runtime.generate(request)) as items:
            async for item in items:
                tokens += [drawn.token for drawn in item.drawn] if isinstance(item, Delta) else []
                if patience is not None and len(tokens) > patience:
                    break
            else:
                patience = None
        wrong += tokens != expected if patience is None else tokens != expected[: len(tokens)]
    return wrong


async def meddler(world: World, seed: int) -> None:
    """Load, unload, pin and switch what the others use."""
    draw = random.Random(seed)  # noqa: S311 - a repeatable mix
    while True:
        name = f"a{draw.randrange(8)}"
        action = draw.randrange(4)
        try:
            if action == 0:
                await world.runtime.load(name)
            elif action == 1:
                await world.runtime.unload(name)
            elif action == 2:
                await world.runtime.pin(name, ttl=0.01)
            else:
                await world.switch("side", (Weighted("a0"),) * draw.randrange(2), None)
        except (AdapterPinned, AdapterInUse):
            pass
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_answer_depends_on_its_batch_mates(crowded: World, seed: int) -> None:
    meddling = asyncio.create_task(meddler(crowded, seed))
    wrong = await asyncio.gather(*(client(crowded, 100 * seed + n) for n in range(CLIENTS)))
    assert not meddling.done(), meddling.exception()
    meddling.cancel()
    await asyncio.gather(meddling, return_exceptions=True)
    await crowded.switch("side", (), None)
    assert sum(wrong) == 0
    assert max(len(step) for step in crowded.engine.steps) > 4
    assert len(crowded.engine.installs) > 30
    assert crowded.engine.violations == []


async def test_requests_by_route_get_one_selection_or_the_other_whole(crowded: World) -> None:
    selections = [(), (Weighted("a0"), Weighted("a1", 0.5)), (Weighted("a2"),)]
    expected: dict[tuple[tuple[str, float], ...], list[int]] = {}
    request = call("by route", route="default", selection=None)
    for selection in selections:
        found = [(await crowded.registry.resolve(item.adapter), item.weight) for item in selection]
        expected[tuple((p.digest, weight) for p, weight in found)] = crowded.expected(request, *found)

    async def switch() -> None:
        for n in range(30):
            await crowded.switch("default", selections[n % 3], None)
            await asyncio.sleep(0.002)

    async def ask() -> None:
        for _ in range(15):
            reply = await crowded.ask(request)
            started: Started = reply.started
            assert reply.tokens == expected[tuple((one.digest, one.weight) for one in started.adapters)]

    await asyncio.gather(switch(), *(ask() for _ in range(8)))
