"""Two registries on one PostgreSQL and one bucket: to callers they are one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from adapter_registry.blobs.s3_bucket import S3Settings
from lorry.errors import AlreadyRunning
from lorry.format.digest import digest_of
from lorry.registry import RegistryClient
from lorry.rpc.chunks import CHUNK_BYTES
from lorry.v1 import blob_pb2, catalog_pb2
from tests.support.adapters import BASE_NAME, adapter_bytes, write_adapter
from tests.support.blobs import blob
from tests.support.registry import DEADLINE, FINISH, Client, chunks, header, running_registry, until

pytestmark = [pytest.mark.postgres, pytest.mark.s3]

# What S3 keeps of a broken upload is whole parts of 8 MiB.
PART_CHUNKS = 8


@pytest.fixture
async def replicas(
    tmp_path: Path, postgres_url: str, s3_bucket: str, s3_settings: S3Settings
) -> AsyncIterator[list[Client]]:
    shared: dict[str, Any] = {
        "database_url": postgres_url,
        "blobs": f"s3://{s3_bucket}/registry",
        "s3_endpoint": s3_settings.endpoint,
        "s3_access_key_id": s3_settings.access_key_id,
        "s3_secret_access_key": s3_settings.secret_access_key,
    }
    async with AsyncExitStack() as stack:
        targets = [
            await stack.enter_async_context(running_registry(tmp_path / name, **shared)) for name in ("one", "two")
        ]
        clients = [await stack.enter_async_context(Client(target)) for target in targets]
        await clients[0].register()
        yield clients


async def test_an_upload_that_was_cut_at_one_goes_on_at_the_other(replicas: list[Client]) -> None:
    one, two = replicas
    data = blob((2 * PART_CHUNKS + 1) * CHUNK_BYTES)
    digest = digest_of(data)
    call = one.blobs.Upload(timeout=DEADLINE)
    for message in [header(digest, len(data)), *chunks(data)[: PART_CHUNKS + 1]]:
        await call.write(message)

    async def kept() -> int:
        return (await two.blobs.QueryUpload(blob_pb2.QueryUploadRequest(digest=digest))).committed_bytes

    async def a_part_is_kept() -> bool:
        return await kept() == PART_CHUNKS * CHUNK_BYTES

    await until(a_part_is_kept)
    call.cancel()
    answer = await two.send([header(digest, len(data)), *chunks(data, await kept()), FINISH])
    assert (answer.size_bytes, answer.existed) == (len(data), False)
    assert b"".join([piece.data for piece in await one.get(digest)]) == data


async def test_what_one_publishes_the_other_knows_and_tells(replicas: list[Client]) -> None:
    one, two = replicas
    from_the_first = catalog_pb2.WatchRequest(resume_token="0")  # noqa: S106 - no secret
    watch = two.catalog.Watch(from_the_first, timeout=DEADLINE)
    version = await one.publish("cat", adapter_bytes(), alias="prod")
    told = [await watch.read() for _ in range(3)]
    assert [event.WhichOneof("event") for event in told] == ["base_registered", "version_created", "alias_moved"]
    assert (await two.call("Resolve", adapter="cat:prod")).version == version
    watch.cancel()


async def test_both_publish_one_version_and_agree(replicas: list[Client]) -> None:
    versions = await asyncio.gather(*(client.publish("cat", adapter_bytes()) for client in replicas))
    assert versions[0] == versions[1]


async def test_garbage_is_collected_at_both_beside_pushes_at_both(replicas: list[Client], tmp_path: Path) -> None:
    targets = [client.target for client in replicas]
    done = asyncio.Event()

    async def push(number: int) -> str:
        folder = write_adapter(tmp_path / f"adapter{number}", seed=number % 3)
        async with RegistryClient(targets[number % 2]) as client:
            return (await client.push(folder, f"adapter{number}", base=BASE_NAME)).digest

    async def collect(target: str) -> int:
        """How often it ran; being the second is no failure."""
        runs = 0
        async with RegistryClient(target) as client:
            while not done.is_set():
                with suppress(AlreadyRunning):
                    await client.collect_garbage()
                    runs += 1
                await asyncio.sleep(0.01)
        return runs

    collecting = [asyncio.create_task(collect(target)) for target in targets]
    await asyncio.gather(*(push(number) for number in range(8)))
    done.set()
    assert sum(await asyncio.gather(*collecting)) > 0
    async with RegistryClient(targets[0]) as client:
        reports = [report async for report in client.fsck()]
    assert [report.WhichOneof("report") for report in reports] == ["progress"] * len(reports)
    assert reports[-1].progress.done
