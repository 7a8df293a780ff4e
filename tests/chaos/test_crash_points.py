"""kill -9 at every named step: nothing half is ever seen, and what was interrupted can be done again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from lorry import RegistryClient
from lorry.errors import AdapterNotFound
from tests.chaos.crashing import LARGE_RANK, SMALL_RANK, bundle, crash, is_whole, push, upload, versions_of
from tests.chaos.home import Home, findings
from tests.chaos.points import ALIAS, COLLECT, DELETE, FILE_UPLOAD, POINTS, PUBLISH, S3_UPLOAD, UPLOAD
from tests.support.adapters import BASE_NAME, base_for

SERVED = [pytest.mark.postgres, pytest.mark.s3]
EVERYWHERE = UPLOAD | PUBLISH
# By kind of storage, so that each is made once.
STEPS_OF_A_PUSH = [
    *(("embedded", point) for point in FILE_UPLOAD | EVERYWHERE),
    *(pytest.param("served", point, marks=SERVED) for point in S3_UPLOAD),
    *(pytest.param("served", point, marks=[*SERVED, pytest.mark.long]) for point in EVERYWHERE),
]
# Points that only a blob of several parts passes.
LARGE = {"upload.parts-sent", "upload.announced", "upload.completed", "upload.named"}
STANDING = "standing/adapter"


@pytest.fixture
async def client(home: Home, tmp_path: Path) -> AsyncIterator[RegistryClient]:
    """Of a running registry, whose version of STANDING nothing may touch."""
    await asyncio.to_thread(home.start_if_dead)
    async with home.client() as client:
        await client.register_base_model(BASE_NAME, base_for())
        before = await push(client, bundle(tmp_path), STANDING)
        yield client
        assert (await client.resolve(f"{STANDING}:prod")).digest == before
        assert await findings(client) == []


def name_for(point: str) -> str:
    return f"{point.replace('.', '/')}"


def test_every_point_has_its_test() -> None:
    assert {*FILE_UPLOAD, *S3_UPLOAD, *EVERYWHERE, *ALIAS, *DELETE, *COLLECT} == set(POINTS)


@pytest.mark.parametrize(("home", "point"), STEPS_OF_A_PUSH, indirect=["home"])
async def test_a_push_is_seen_as_a_whole_or_not_at_all_and_can_be_repeated(
    home: Home, client: RegistryClient, point: str, tmp_path: Path
) -> None:
    name = name_for(point)
    folder = bundle(tmp_path, seed=1, rank=LARGE_RANK if point in LARGE else SMALL_RANK)
    await crash(home, point, push(client, folder, name))
    await is_whole(home, client)
    there = await versions_of(client, name)
    assert len(there) == (point == "publish.committed")
    for digest in there:
        assert (await client.resolve(f"{name}:prod")).digest == digest
    digest = await push(client, folder, name)
    assert await versions_of(client, name) == [digest]
    assert (await client.resolve(f"{name}:prod")).number == 1


@pytest.mark.parametrize(("point", "moved"), [("alias.in-transaction", False), ("alias.committed", True)])
async def test_an_alias_points_to_the_old_or_to_the_new_version(
    home: Home,
    client: RegistryClient,
    point: str,
    moved: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
) -> None:
    name = name_for(point)
    new, old = [await push(client, bundle(tmp_path, seed), name) for seed in (1, 2)]
    await crash(home, point, client.set_alias(f"{name}@1", "prod"))
    assert (await client.resolve(f"{name}:prod")).digest == (new if moved else old)
    await client.set_alias(f"{name}@1", "prod")
    assert (await client.resolve(f"{name}:prod")).digest == new


@pytest.mark.parametrize("point", DELETE)
async def test_an_adapter_goes_as_a_whole_or_stays_and_its_name_can_be_taken_again(
    home: Home, client: RegistryClient, point: str, tmp_path: Path
) -> None:
    name = name_for(point)
    folders = [bundle(tmp_path, seed) for seed in range(1, 6)]  # three batches
    for folder in folders:
        await push(client, folder, name)
    await crash(home, point, client.delete_adapter(name))
    await is_whole(home, client)
    assert len(await versions_of(client, name)) == (5 if point == "delete.in-transaction" else 0)
    with suppress(AdapterNotFound):
        await client.delete_adapter(name)
    await client.collect_garbage(grace=timedelta())
    digest = await push(client, folders[0], name)
    assert await versions_of(client, name) == [digest]


@pytest.mark.parametrize("point", COLLECT)
async def test_a_collection_is_finished_by_the_next_and_what_it_took_can_be_sent_again(
    home: Home, client: RegistryClient, point: str, tmp_path: Path
) -> None:
    garbage = await upload(client, tmp_path, point.encode())
    await crash(home, point, client.collect_garbage(grace=timedelta()))
    await is_whole(home, client)
    await client.collect_garbage(grace=timedelta())
    assert await client.find_missing([garbage]) == [garbage]
    assert await upload(client, tmp_path, point.encode()) == garbage
    assert b"".join([bytes(piece.data) async for piece in client.read(garbage)]) == point.encode()
