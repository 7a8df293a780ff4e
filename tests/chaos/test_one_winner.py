"""32 writers at once, through the wire: one winner for each name, and a version never changes its bytes."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from lorry import RegistryClient
from lorry.errors import BaseConflict, InvalidAdapter, LorryError, RevisionConflict
from lorry.format.bundle import check_bundle
from lorry.format.manifest import ManifestFile
from lorry.rpc.calls import translated
from lorry.rpc.convert import file_to_pb
from lorry.v1.catalog_pb2 import CreateVersionRequest
from lorry.v1.types_pb2 import Version
from tests.chaos.crashing import bundle
from tests.chaos.home import Home, damaged, visible
from tests.support.adapters import BASE_NAME, base_for

WRITERS = 32
# The long forms look more often.
ROUNDS = range(3 if os.environ.get("LORRY_LONG") else 1)

Files = tuple[ManifestFile, ...]


@pytest.fixture
async def writers(home: Home) -> AsyncIterator[list[RegistryClient]]:
    """Each on a connection of its own."""
    await asyncio.to_thread(home.start_if_dead)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(home.client()) for _ in range(WRITERS)]
        await clients[0].register_base_model(BASE_NAME, base_for())
        await asyncio.gather(*(client.base_model(BASE_NAME) for client in clients))
        yield clients


async def at_once(writers: list[RegistryClient], call: Callable[[int, RegistryClient], Awaitable[Any]]) -> list[Any]:
    """What each writer is answered, or refused with."""

    async def one(number: int, client: RegistryClient) -> Any:
        try:
            return await call(number, client)
        except LorryError as error:
            return error

    return await asyncio.gather(*(one(number, client) for number, client in enumerate(writers)))


async def stored(client: RegistryClient, folder: Path) -> Files:
    """The files of an adapter, sent, not published."""
    found = check_bundle(folder)
    missing = await client.find_missing([file.digest for file in found.files])
    for file in found.files:
        if file.digest in missing:
            await client.upload(found.path(file), file.digest)
    return found.files


async def create(client: RegistryClient, name: str, files: Files, expected: str = "") -> tuple[bool, Version]:
    """Whether the version is new, and the version."""
    request = CreateVersionRequest(
        adapter=name, files=map(file_to_pb, files), base_model=BASE_NAME, expected_digest=expected
    )
    with translated():
        answer = await client._catalog.CreateVersion(request, timeout=30)
    return answer.created, answer.version


def names_of(files: Files) -> set[tuple[str, str]]:
    return {(file.name, file.digest) for file in files}


async def test_of_32_who_publish_the_same_bytes_one_makes_the_version(
    writers: list[RegistryClient], tmp_path: Path
) -> None:
    files = await stored(writers[0], bundle(tmp_path))
    for number in ROUNDS:
        answers = await at_once(writers, lambda _, client, n=number: create(client, f"same-{n}", files))
        assert Counter(created for created, _ in answers) == {True: 1, False: WRITERS - 1}
        assert all(version == answers[0][1] for _, version in answers)


async def test_32_who_publish_different_bytes_get_a_number_each_and_keep_it(
    writers: list[RegistryClient], tmp_path: Path
) -> None:
    wanted = await at_once(writers, lambda n, client: stored(client, bundle(tmp_path, n)))
    answers = await at_once(writers, lambda n, client: create(client, "different", wanted[n]))
    assert sorted(version.number for _, version in answers) == list(range(1, WRITERS + 1))
    again = await at_once(writers, lambda n, client: create(client, "different", wanted[-1 - n]))
    assert not any(created for created, _ in again)
    for files, (_, version) in zip(wanted, answers, strict=True):
        now = await writers[0].version(f"different@{version.number}")
        assert {(file.name, file.digest) for file in now.manifest.files} == names_of(files)
    assert await damaged(writers[0], await visible(writers[0])) == {}


async def test_under_the_digest_of_a_version_no_other_bytes_are_taken(
    writers: list[RegistryClient], tmp_path: Path
) -> None:
    right, wrong = [await stored(writers[0], bundle(tmp_path, seed)) for seed in (1, 2)]
    _, version = await create(writers[0], "first", right)
    for number in ROUNDS:
        name = f"claimed-{number}"
        answers = await at_once(
            writers,
            lambda n, client, name=name: create(client, name, wrong if n % 2 else right, expected=version.digest),
        )
        assert all(isinstance(answer, InvalidAdapter) for answer in answers[1::2])
        assert Counter(created for created, _ in answers[::2]) == {True: 1, False: WRITERS // 2 - 1}


async def test_of_32_swaps_of_an_alias_from_one_revision_one_wins(
    writers: list[RegistryClient], tmp_path: Path
) -> None:
    files = await stored(writers[0], bundle(tmp_path))
    await create(writers[0], "swapped", files)
    for number in ROUNDS:
        answers = await at_once(
            writers, lambda _, client, n=number: client.set_alias("swapped@1", f"prod-{n}", expected_revision=0)
        )
        assert [isinstance(answer, RevisionConflict) for answer in answers].count(True) == WRITERS - 1


async def test_of_32_bases_under_one_name_one_gets_it(writers: list[RegistryClient]) -> None:
    for number in ROUNDS:
        answers = await at_once(
            writers,
            lambda n, client, r=number: client.register_base_model(f"base-{r}", base_for(seed=100 + WRITERS * r + n)),
        )
        assert [isinstance(answer, BaseConflict) for answer in answers].count(True) == WRITERS - 1
