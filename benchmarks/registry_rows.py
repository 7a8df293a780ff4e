"""Questions to the catalogue: the same to one with many versions and to one with few.

Owns these cases. The peer is Lorry itself with a hundredth of the versions: what is measured is growth.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any, TypeAlias

from benchmarks.measuring import Claim
from benchmarks.registry_stock import LONG, NAMESPACE, short, shorts
from benchmarks.registry_world import House, World
from lorry.errors import LorryError
from lorry.v1.catalog_pb2 import ListAdaptersRequest, ListVersionsRequest
from lorry.v1.catalog_pb2_grpc import CatalogServiceStub

_MS = 1e3
# Of so many calls one after the other, the median.
_LISTS = 15
_WRITES = 20
_DEADLINE = 60.0

_Request: TypeAlias = ListVersionsRequest | ListAdaptersRequest
_Ask: TypeAlias = Callable[..., Any]  # a call of the stub


class Resolve:
    """Names resolved by callers at once, each the next as soon as it has the last: calls a second, or their p99."""

    def __init__(self, place: str, *, slowest: bool) -> None:
        name, unit = ("resolve-p99", "ms") if slowest else ("resolve", "op/s")
        title = f"{'99th percentile' if slowest else 'rate'} of Resolve, {place}"
        self.claim = Claim(f"{name}-{place}", title, unit, "few versions", higher=not slowest)
        self._place = place
        self._slowest = slowest

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        await self.ours(world, -1)
        await self.peer(world, -1)

    async def ours(self, world: World, turn: int) -> float:
        """See Measurable."""
        return await self._measured(world, world.scale.many, turn)

    async def peer(self, world: World, turn: int) -> float:
        """See Measurable."""
        return await self._measured(world, world.scale.few, turn)

    async def _measured(self, world: World, versions: int, turn: int) -> float:
        house = await world.house(self._place, versions)
        draw = random.Random(turn)  # noqa: S311 - which names are asked for
        names = [
            [short(draw.randrange(shorts(versions))) for _ in range(world.scale.calls)]
            for _ in range(world.scale.callers)
        ]
        seconds: list[float] = []
        began = time.perf_counter()
        await asyncio.gather(*(_resolve(house, each, seconds) for each in names))
        whole = time.perf_counter() - began
        return sorted(seconds)[len(seconds) * 99 // 100] * _MS if self._slowest else len(seconds) / whole


async def _resolve(house: House, names: list[str], seconds: list[float]) -> None:
    for name in names:
        began = time.perf_counter()
        await house.client.resolve(name)
        seconds.append(time.perf_counter() - began)


class Lists:
    """Milliseconds of one page of 100, which `request` asks for."""

    def __init__(self, name: str, title: str, place: str, request: _Request) -> None:
        self.claim = Claim(f"{name}-{place}", f"{title}, {place}", "ms", "few versions", higher=False)
        self._place = place
        self._request = request
        self._deep = name.endswith("deep")
        self._tokens: dict[int, str] = {}

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        for versions in (world.scale.many, world.scale.few):
            await self._measured(world, versions)

    async def ours(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        return await self._measured(world, world.scale.many)

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        return await self._measured(world, world.scale.few)

    async def _measured(self, world: World, versions: int) -> float:
        house = await world.house(self._place, versions)
        stub = CatalogServiceStub(house.client._channel)  # noqa: SLF001 - the SDK's pages have no size of their own
        request = self._request
        ask: _Ask = stub.ListVersions if isinstance(request, ListVersionsRequest) else stub.ListAdapters
        if self._deep and versions not in self._tokens:
            self._tokens[versions] = await _walk(ask, request)
        request.page_token = self._tokens.get(versions, "")
        seconds = []
        for _ in range(_LISTS):
            began = time.perf_counter()
            await ask(request, timeout=_DEADLINE)
            seconds.append(time.perf_counter() - began)
        return median(seconds) * _MS


async def _walk(ask: _Ask, request: _Request) -> str:
    """Token of the last full page."""
    walking = type(request).FromString(request.SerializeToString())
    walking.page_size = 1_000
    token = ""
    while True:
        page = await ask(walking, timeout=_DEADLINE)
        if not page.next_page_token:
            return token
        token = walking.page_token = page.next_page_token


class Deletion:
    """Longest wait of somebody who writes while the adapter with half of all versions is deleted."""

    def __init__(self, place: str) -> None:
        title = f"longest wait of a writer while half of the versions are deleted, {place}"
        self.claim = Claim(f"delete-{place}", title, "ms", "few versions", higher=False)
        self._place = place

    async def prepare(self, world: World) -> None:
        """See Measurable."""

    async def ours(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        return await self._measured(await world.open(self._place, world.scale.many))

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        return await self._measured(await world.open(self._place, world.scale.few))

    async def _measured(self, house: House) -> float:
        deleting = asyncio.create_task(house.client.within(_DEADLINE * 10).delete_adapter(LONG, force=True))
        await asyncio.sleep(0)
        waits: list[float] = []
        while not deleting.done() or len(waits) < _WRITES:
            began = time.perf_counter()
            try:
                await house.client.set_alias(f"{short(0)}@1", "prod")
            except LorryError:
                if not deleting.done():  # it gave up waiting: that is a wait too
                    waits.append(time.perf_counter() - began)
                    continue
                raise
            waits.append(time.perf_counter() - began)
        await deleting
        return max(waits) * _MS


def lists(place: str) -> list[Lists]:
    """The pages that are measured."""
    filtered = "rank>=2 AND module=q_proj"
    versions, adapters = ListVersionsRequest(adapter=LONG), ListAdaptersRequest(namespace=NAMESPACE)
    return [
        Lists("versions", "first page of ListVersions", place, versions),
        Lists("versions-deep", "last page of ListVersions", place, versions),
        Lists(
            "versions-filtered",
            "first page of ListVersions, rank and module",
            place,
            ListVersionsRequest(adapter=LONG, filter=filtered),
        ),
        Lists("adapters", "first page of ListAdapters", place, adapters),
        Lists("adapters-deep", "last page of ListAdapters", place, adapters),
        Lists(
            "adapters-filtered",
            "first page of ListAdapters, rank and module",
            place,
            ListAdaptersRequest(namespace=NAMESPACE, filter=filtered),
        ),
    ]
