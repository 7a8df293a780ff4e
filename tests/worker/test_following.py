"""A real worker keeps up with a real registry: flips under load, yanks, deletions and leases."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lorry import WorkerClient
from lorry.errors import VersionInUse, VersionNotFound, VersionYanked
from lorry.v1 import types_pb2
from lorry.v1.residency_pb2 import TIER_POOL
from tests.support.pair import Pair, running_pair
from tests.support.registry import until
from tests.support.worker import running_worker, tiny_adapter

HOLDER = "gpu-1"


@pytest.fixture
async def pair(tmp_path: Path, model: Path) -> AsyncIterator[Pair]:
    async with running_pair(tmp_path, model, name=HOLDER) as pair:
        yield pair


async def publish(pair: Pair, seeds: range, alias: str = "") -> list[types_pb2.Version]:
    """Versions of one adapter."""
    folders = [tiny_adapter(pair.path(f"one-{seed}"), rank=2 + seed, seed=seed) for seed in seeds]
    return [await pair.registry.push(folder, "team/one", alias=alias, parents=()) for folder in folders]


async def resident(pair: Pair) -> dict[str, tuple[int, int]]:
    """Tier and number of loads by digest."""
    return {one.digest: (one.tier, one.loads) async for one in pair.worker.residents()}


async def in_pool(pair: Pair, version: types_pb2.Version) -> bool:
    return (await resident(pair)).get(version.digest, (0, 0))[0] == TIER_POOL


async def test_an_alias_that_flips_under_load_fails_no_request_mixes_none_and_loads_none_cold(pair: Pair) -> None:
    versions = await publish(pair, range(3))
    exact = {v.digest: await pair.answer(f"team/one@{v.digest}", length=4) for v in versions}
    for version in versions[1:]:
        await pair.worker.unload(f"team/one@{version.digest}")
    await pair.registry.set_alias("team/one@1", "prod")
    served: Counter[str] = Counter()
    done = asyncio.Event()

    async def client() -> None:
        while not done.is_set():
            messages = pair.worker.generate(
                "the quick brown fox", adapters="team/one:prod", max_new_tokens=4, ignore_eos=True
            )
            received = [message async for message in messages]
            (adapter,) = received[0].started.adapters
            tokens = [token for message in received for token in message.delta.token_ids]
            assert tokens == exact[adapter.digest].tokens
            served[adapter.digest] += 1

    clients = [asyncio.create_task(client()) for _ in range(6)]
    await until(lambda: _served(served, versions[0]))
    for version in versions[1:]:
        await pair.registry.set_alias(f"team/one@{version.number}", "prod")
        await until(lambda version=version: _served(served, version))
        # Loaded once, by the worker itself: the first request found it in the pool.
        assert (await resident(pair))[version.digest] == (TIER_POOL, 2)
    done.set()
    await asyncio.gather(*clients)
    assert set(served) == {version.digest for version in versions}


async def _served(served: Counter[str], version: types_pb2.Version) -> bool:
    return served[version.digest] > 0


async def test_a_route_that_was_written_by_alias_follows_it(pair: Pair) -> None:
    first, second = await publish(pair, range(2))
    await pair.registry.set_alias("team/one@1", "prod")
    assert (await pair.worker.switch("team/one:prod")).adapters[0].digest == first.digest
    await pair.registry.set_alias("team/one@2", "prod")

    async def followed() -> bool:
        return (await pair.worker.route()).adapters[0].digest == second.digest

    await until(followed)
    route = await pair.worker.route()
    assert (route.revision, route.targets[0].selection.adapters[0].adapter) == (3, "team/one:prod")


async def test_a_yank_stops_new_requests_by_name_alias_and_route_with_its_reason(pair: Pair) -> None:
    (version,) = await publish(pair, range(1), alias="prod")
    await pair.worker.switch("team/one:prod")
    await pair.answer("team/one:prod")
    await pair.registry.yank("team/one@1", "it leaks")

    async def refused() -> bool:
        try:
            await pair.answer(None)
        except VersionYanked as error:
            return error.metadata["yank_reason"] == "it leaks"
        return False

    await until(refused)
    for reference in ("team/one:prod", "team/one@1"):
        with pytest.raises(VersionYanked, match="it leaks"):
            await pair.answer(reference)
    await pair.answer(f"team/one@{version.digest}")


async def test_what_the_worker_uses_cannot_be_deleted_unless_forced_and_leaves_it_then(pair: Pair) -> None:
    (version,) = await publish(pair, range(1))
    await pair.worker.load("team/one")

    async def leased() -> bool:
        return [lease.holder async for lease in pair.registry.leases("team/one")] == [HOLDER]

    await until(leased)
    with pytest.raises(VersionInUse, match=HOLDER):
        await pair.registry.delete_version("team/one@1")
    await pair.registry.delete_version("team/one@1", force=True)

    async def gone() -> bool:
        return version.digest not in await resident(pair)

    await until(gone)
    with pytest.raises(VersionNotFound):
        await pair.answer(f"team/one@{version.digest}")
    assert not list((pair.folder / "worker" / "blobs").iterdir())


async def test_a_worker_that_stops_ends_its_leases(pair: Pair, model: Path) -> None:
    await publish(pair, range(1))

    async def holders() -> list[str]:
        return [lease.holder async for lease in pair.registry.leases("team/one")]

    async def held() -> bool:
        return await holders() == ["gpu-2"]

    settings = {"name": "gpu-2"}
    async with running_worker(pair.folder / "second", model, pair.registry.address, **settings) as second:
        async with WorkerClient(second.target) as client:
            await client.load("team/one")
        await until(held)
    assert await holders() == []
