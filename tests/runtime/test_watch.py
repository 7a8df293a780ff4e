"""Watching residency: the state as it is, then each change, or an end that is told."""

import asyncio
from contextlib import aclosing
from itertools import count

import pytest

from compute_worker.runtime.api import Tier
from lorry.errors import Draining, Lagging
from tests.support.toy_world import World


async def test_a_watch_begins_with_what_is_held_and_goes_on_with_changes(world: World) -> None:
    for name in ("a", "b"):
        world.registry.add(name, rank=12)
    await world.runtime.load("a")
    seen: list[tuple[str, Tier, bool, bool]] = []

    async def follow() -> None:
        async with aclosing(world.runtime.watch()) as changes:
            async for state, initial in changes:
                seen.append((state.names[0], state.tier, state.pinned, initial))
                if state.pinned:
                    return

    watching = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await world.runtime.load("b")
    await world.runtime.unload("a")
    await world.runtime.pin("b")
    await watching
    assert seen == [
        ("a", Tier.POOL, False, True),
        ("b", Tier.HOST, False, False),
        ("a", Tier.HOST, False, False),
        ("b", Tier.POOL, False, False),
        ("a", Tier.DISK, False, False),
        ("b", Tier.POOL, True, False),
    ]


async def test_what_leaves_the_last_tier_is_told_as_gone(world: World) -> None:
    published = world.registry.add("a")
    await world.runtime.load("a")
    async with aclosing(world.runtime.watch()) as changes:
        await anext(changes)
        await world.runtime.unload("a")
        assert (await anext(changes))[0].tier is Tier.DISK
        weights = world.cache_dir / "blobs" / world.registry.weights(published).digest[7:]
        weights.write_bytes(b"overwritten")
        world.registry.down = True
        with pytest.raises(Exception, match="does not answer"):
            await world.runtime.load(f"a@{published.digest}")
        assert (await anext(changes))[0].tier is Tier.GONE
    assert world.runtime.residents() == []


async def test_a_watcher_that_does_not_keep_up_is_told_to_start_again(world: World) -> None:
    world.registry.add("a")
    async with aclosing(world.runtime.watch()) as changes:
        first = asyncio.create_task(anext(changes))
        await world.runtime.pin("a")
        await first
        for n in range(1100):
            await world.runtime.pin("a", unpin=n % 2 == 0)
        with pytest.raises(Lagging, match="1024 changes behind"):  # noqa: PT012 - read up to where it ends
            for _ in count():
                await anext(changes)


async def test_closing_ends_a_watch(world: World) -> None:
    watching = asyncio.create_task(anext(world.runtime.watch()))
    await asyncio.sleep(0)
    await world.runtime.close()
    with pytest.raises(Draining):
        await watching
