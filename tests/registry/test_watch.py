from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lorry.errors import Draining, InvalidName, InvalidResumeToken
from lorry.rpc.calls import translated
from lorry.v1 import catalog_pb2
from tests.support.adapters import adapter_bytes
from tests.support.registry import DEADLINE, Client, running_registry

Take = Callable[[int], Awaitable[list[catalog_pb2.WatchResponse]]]
FIRST = "0"


@asynccontextmanager
async def watching(client: Client, **fields: Any) -> AsyncIterator[Take]:
    call = client.catalog.Watch(catalog_pb2.WatchRequest(**fields), timeout=DEADLINE)

    async def take(count: int) -> list[catalog_pb2.WatchResponse]:
        with translated():
            return [await call.read() for _ in range(count)]

    try:
        yield take
    finally:
        call.cancel()


async def story(client: Client) -> list[str]:
    """One event of each kind; their names in order."""
    await client.register()
    await client.publish("team/pirate")
    await client.publish("team/pirate", adapter_bytes(seed=1))
    await client.call("SetAlias", adapter="team/pirate@2", alias="prod")
    await client.call("DeleteAlias", adapter="team/pirate", alias="prod")
    await client.call("YankVersion", adapter="team/pirate@2", reason="swears")
    await client.call("DeleteVersion", adapter="team/pirate@1")
    return [
        "base_registered",
        "version_created",
        "version_created",
        "alias_moved",
        "alias_deleted",
        "version_yanked",
        "version_deleted",
    ]


def kinds(events: list[catalog_pb2.WatchResponse]) -> list[str]:
    return [event.WhichOneof("event") for event in events]


async def test_every_kind_of_event_is_told_in_order_from_the_first_on(client: Client) -> None:
    expected = await story(client)
    async with watching(client, resume_token=FIRST) as take:
        events = await take(len(expected))
    assert kinds(events) == expected
    assert events[5].version_yanked.reason == "swears"
    assert (events[3].alias_moved.alias, events[3].alias_moved.revision) == ("prod", 1)
    assert (events[1].namespace, events[1].name, events[1].version_created.number) == ("team", "pirate", 1)
    assert all(event.HasField("commit_time") for event in events)


async def test_a_watch_goes_on_behind_any_event(client: Client) -> None:
    expected = await story(client)
    async with watching(client, resume_token=FIRST) as take:
        events = await take(len(expected))
    for index, event in enumerate(events[:-1]):
        async with watching(client, resume_token=event.resume_token) as take:
            assert await take(1) == [events[index + 1]]


async def test_a_watch_without_a_token_tells_what_happens_from_now_on(client: Client) -> None:
    await story(client)
    async with watching(client) as take:
        reading = asyncio.create_task(take(1))
        seed = 10
        while not reading.done():  # the watch begins at a moment that the caller does not see
            await client.publish("later", adapter_bytes(seed=seed))
            seed += 1
            await asyncio.wait([reading], timeout=0.5)
        (event,) = await reading
    assert (event.name, kinds([event])) == ("later", ["version_created"])


async def test_a_namespace_has_its_own_events_alone(client: Client) -> None:
    await story(client)
    await client.publish("other/json", adapter_bytes(seed=3))
    async with watching(client, resume_token=FIRST, namespace="other") as take:
        reading = asyncio.create_task(take(2))
        await client.publish("team/pirate", adapter_bytes(seed=4))
        await client.publish("other/json", adapter_bytes(seed=5))
        events = await reading
    assert [(event.namespace, event.version_created.number) for event in events] == [("other", 1), ("other", 2)]


@pytest.mark.parametrize("token", ["1000000", "-1", "abc", "01", "1.0", "9" * 30, "٣"])
async def test_a_token_that_was_not_given_out_is_refused(client: Client, token: str) -> None:
    await client.register()
    async with watching(client, resume_token=token) as take:
        with pytest.raises(InvalidResumeToken):
            await take(1)


async def test_a_namespace_that_is_no_name_is_refused(client: Client) -> None:
    async with watching(client, namespace="A B") as take:
        with pytest.raises(InvalidName):
            await take(1)


async def test_a_watch_ends_with_draining_when_the_registry_stops_and_goes_on_at_the_next(tmp_path: Path) -> None:
    async with running_registry(tmp_path, grace_seconds=20) as target:
        client = Client(target)
        await client.register()
        call = client.catalog.Watch(catalog_pb2.WatchRequest(resume_token=FIRST), timeout=DEADLINE)
        first = await call.read()
    with pytest.raises(Draining), translated():
        await call.read()
    await client.channel.close()
    async with running_registry(tmp_path) as target, Client(target) as client:
        await client.publish("pirate")
        async with watching(client, resume_token=first.resume_token) as take:
            assert kinds(await take(1)) == ["version_created"]
