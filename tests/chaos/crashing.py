"""A crash at a point, and what must be true of any registry that comes back from one.

Knows how a call is cut by the end of the process. Does not know the points.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorry import RegistryClient
from lorry.errors import LorryError
from lorry.format.digest import digest_of
from tests.chaos.home import Home, damaged, visible
from tests.support.adapters import BASE_NAME, MODULES, write_adapter

# At 160 bytes a rank: less than a part of S3, and more than one (8 MiB).
SMALL_RANK, LARGE_RANK = 4, 60_000


def bundle(folder: Path, seed: int = 0, rank: int = SMALL_RANK) -> Path:
    """An adapter of the smallest base."""
    modules = {name: (width, out, rank) for name, (width, out, _) in MODULES.items()}
    return write_adapter(folder / f"{seed}-{rank}", modules, seed=seed)


async def push(client: RegistryClient, folder: Path, name: str) -> str:
    """Publish under the alias `prod`; the version's digest."""
    return (await client.push(folder, name, base=BASE_NAME, alias="prod")).digest


async def crash(home: Home, point: str, call: Coroutine[Any, Any, Any]) -> None:
    """Make the call, which dies with the registry at the point; then the registry lives again."""
    home.arm(point)
    attempt, death = asyncio.create_task(call), asyncio.create_task(home.died())
    await asyncio.wait({attempt, death}, return_when=asyncio.FIRST_COMPLETED)
    assert not _answered(attempt), f"the call was answered, though it leads to {point}"
    await death
    attempt.cancel()
    with suppress(LorryError, asyncio.CancelledError):
        await attempt
    await asyncio.to_thread(home.start)


def _answered(attempt: asyncio.Task[Any]) -> bool:
    return attempt.done() and attempt.exception() is None


async def is_whole(home: Home, client: RegistryClient) -> None:
    """Everything that can be seen has its bytes, and every row has them."""
    assert await damaged(client, await visible(client)) == {}
    assert await asyncio.to_thread(home.rows_without_bytes) == set()


async def versions_of(client: RegistryClient, name: str) -> list[str]:
    """Digests of the adapter's versions, the newest first; none where there is no such adapter."""
    return [version.digest for known, version in (await visible(client)).items() if known.startswith(f"{name}@")]


async def upload(client: RegistryClient, folder: Path, data: bytes) -> str:
    """Store a blob; its digest."""
    path = folder / "blob"
    path.write_bytes(data)
    await client.upload(path, digest_of(data))
    return digest_of(data)
