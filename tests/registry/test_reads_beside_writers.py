"""Readers read on while somebody else keeps the turn to write."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from adapter_registry.service import publish
from lorry import RegistryClient
from lorry.format.digest import digest_of
from lorry.format.facts import AdapterFacts
from tests.support.adapters import adapter_bytes
from tests.support.certificates import Authority
from tests.support.registry import Client, running_registry
from tests.support.tenants import OPERATOR, World, guarded_registry

# More than the catalogue has threads.
READERS = 12
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


async def test_publications_whose_files_are_read_leave_threads_to_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, inspect = threading.Event(), publish.inspect

    def slow(*given: Any) -> AdapterFacts:
        gate.wait(60)
        return inspect(*given)

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
