"""What a route or a pin keeps may be moved within the pool for another's sake; it is not lost over that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from compute_worker.contract import PublishedAdapter
from compute_worker.runtime.api import Tier, Weighted
from compute_worker.runtime.rights import Permission, Rights, acting, rights
from lorry.errors import BlobNotFound
from lorry.format.manifest import ManifestFile
from lorry.partfile import Sink
from tests.support.toy_world import World, call, eventually, running

A, B = Rights({"a": Permission.PUSH}, "a"), Rights({"b": Permission.PUSH}, "b")
BY_ROUTE = {"selection": None, "route": "prod"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, host_bytes=1) as world:
        yield await world.listening()


@pytest.fixture
async def kept(world: World) -> PublishedAdapter:
    """On a route of b's, in the midst of the pool, and damaged on disk; b alone may fetch it, and the worker."""
    world.registry.add("b/first", 6, seed=1)
    kept = world.registry.add("b/kept", 2, seed=2)
    with acting(B):
        await world.runtime.load("b/first")
        await world.switch("prod", (Weighted(f"b/kept@{kept.digest}"),), None)
    path = world.runtime._held.disk._path(world.registry.weights(kept).digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    fetch = world.registry.fetch

    async def fetch_as_allowed(file: ManifestFile, into: Sink) -> None:
        if rights().holder == A.holder and file.digest == world.registry.weights(kept).digest:
            raise BlobNotFound("no blob that the caller may read")
        await fetch(file, into)

    world.registry.fetch = fetch_as_allowed
    return kept


async def test_it_is_read_again_in_the_workers_name(world: World, kept: PublishedAdapter) -> None:
    world.registry.add("a/large", 10, seed=3)  # it fits where the route's is not in the midst
    with acting(A):
        await world.ask(call("hello", "a/large"))
    entry = world.runtime._held.ledger.entries[kept.digest]
    await eventually(lambda: entry.in_pool)
    assert (entry.start, entry.holds) == (0, 1)
    with acting(B):
        assert (await world.ask(call(**BY_ROUTE))).tokens == world.expected(call(), (kept, 1.0))


async def test_where_that_fails_the_route_still_has_it(world: World, kept: PublishedAdapter) -> None:
    large = world.registry.add("a/large", 10, seed=3)
    with acting(A):
        await world.runtime.load("a/large", Tier.DISK)
        world.registry.down = True
        await world.ask(call("hello", f"a/large@{large.digest}"))
    entry = world.runtime._held.ledger.entries[kept.digest]
    await eventually(lambda: entry.installing is None)
    assert (entry.start, entry.holds) == (None, 1)
    world.registry.down = False
    with acting(B):
        await world.ask(call(**BY_ROUTE))
        await world.switch("prod", (), None)
    assert world.runtime._held.ledger.entries[kept.digest].holds == 0
