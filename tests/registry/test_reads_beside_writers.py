"""Nobody waits behind work of another kind: readers behind writers, either of them behind a long deletion."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapter_registry.service import publish
from adapter_registry.store import removal
from lorry import RegistryClient
from lorry.errors import AdapterNotFound
from lorry.format.digest import digest_of
from tests.support.adapters import adapter_bytes
from tests.support.certificates import Authority
from tests.support.registry import Client, running_registry, until
from tests.support.tenants import OPERATOR, World, guarded_registry

# More than the catalogue has threads.
READERS = 12
WRITERS = 12
SMALL = b"a piece, and gone"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with guarded_registry(tmp_path / "registry", Authority(tmp_path)) as world:
        yield world


async def test_that_readers_are_seen_is_noted_in_nobodys_way(world: World, tmp_path: Path) -> None:
    async with world.client(OPERATOR) as operator:
        made = [await operator.create_token(f"reader-{n}", {"*": "read"}) for n in range(READERS)]
    async with AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(
                RegistryClient(world.target, token=each.token, root_certificates=world.root, timeout=60)
            )
            for each in made
        ]
        with closing(sqlite3.connect(tmp_path / "registry" / "catalog.db", isolation_level=None)) as elsewhere:
            elsewhere.execute("BEGIN IMMEDIATE")
            # Each of them would be noted as seen, and cannot be. A bound for a hung test: a note waits for ten seconds.
            async with asyncio.timeout(8):
                for reader in readers:
                    assert [each async for each in reader.adapters()] == []
            elsewhere.execute("ROLLBACK")


async def test_writers_that_wait_for_their_turn_leave_threads_to_readers(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "registry") as target, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(target)) for _ in range(WRITERS)]
        await clients[0].register()
        await clients[0].publish("cat")
        with closing(sqlite3.connect(tmp_path / "registry" / "catalog.db", isolation_level=None)) as elsewhere:
            elsewhere.execute("BEGIN IMMEDIATE")
            writing = [
                asyncio.create_task(client.call("SetAlias", adapter="cat@1", alias=f"a{number}"))
                for number, client in enumerate(clients)
            ]
            await asyncio.sleep(0.3)  # for them to be where they wait; shorter and this says less, never wrong
            async with asyncio.timeout(8):  # a writer gives up after ten
                for client in clients:
                    assert (await client.call("Resolve", adapter="cat")).version.number == 1
            elsewhere.execute("ROLLBACK")
        await asyncio.gather(*writing)


async def test_a_deletion_that_takes_long_is_in_nobodys_way_but_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(removal, "BATCH", 1)
    monkeypatch.setattr(removal, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: gate.wait(60)))
    async with running_registry(tmp_path / "registry") as target, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(target)) for _ in range(WRITERS)]
        await clients[0].register()
        for seed in range(3):
            await clients[0].publish("cat", adapter_bytes(seed=seed))
        deleting = asyncio.create_task(clients[0].call("DeleteAdapter", adapter="cat"))
        await until_gone(clients[1], "cat")
        coming_back = [asyncio.create_task(client.publish("cat")) for client in clients[1:]]
        await asyncio.sleep(0.3)  # as above
        async with asyncio.timeout(10):
            assert (await clients[0].publish("dog")).number == 1
        assert not deleting.done()
        gate.set()
        assert len((await deleting).deleted_versions) == 3
        assert {version.number for version in await asyncio.gather(*coming_back)} == {4}


async def until_gone(client: Client, adapter: str) -> None:
    async def gone() -> bool:
        try:
            await client.call("GetAdapter", adapter=adapter)
        except AdapterNotFound:
            return True
        return False

    await until(gone)


async def test_publications_whose_files_are_read_leave_threads_to_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, inspect = threading.Event(), publish.inspect

    def slow(*given: Any) -> None:
        gate.wait(60)
        inspect(*given)

    monkeypatch.setattr(publish, "inspect", slow)
    async with running_registry(tmp_path / "registry") as target, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(target)) for _ in range(20)]
        await clients[0].register()
        await clients[0].put(SMALL)
        publishing = [
            asyncio.create_task(client.publish(f"line{number}", adapter_bytes(seed=number)))
            for number, client in enumerate(clients)
        ]
        try:
            await asyncio.sleep(0.5)  # for all of them to be where they wait; shorter and this says less, never wrong
            async with asyncio.timeout(10):
                assert b"".join([piece.data for piece in await clients[0].get(digest_of(SMALL))]) == SMALL
        finally:
            gate.set()
        await asyncio.gather(*publishing)
