from __future__ import annotations

import asyncio
import hashlib
import resource
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from adapter_registry.store.migrate import upgrade
from lorry.errors import FailedPrecondition, Internal
from lorry.format.digest import digest_of
from lorry.rpc.chunks import CHUNK_BYTES
from lorry.rpc.serving import is_serving
from lorry.v1 import blob_pb2
from tests.support.registry import DEADLINE, FINISH, Client, chunks, header, registry_process, running_registry, until

DATA = hashlib.shake_256(b"upload").digest(4 * CHUNK_BYTES)
DIGEST = digest_of(DATA)
FIRST = "0"


async def committed(client: Client) -> int:
    query = blob_pb2.QueryUploadRequest(digest=DIGEST)
    return (await client.blobs.QueryUpload(query, timeout=DEADLINE)).committed_bytes


async def came(client: Client, count: int) -> bool:
    return await committed(client) >= count


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
async def test_an_upload_goes_on_after_the_registry_was_ended(tmp_path: Path, kill: signal.Signals) -> None:
    with registry_process(tmp_path, LORRY_REGISTRY_GRACE_SECONDS="0") as first:
        async with Client(first.target) as client:
            call = client.blobs.Upload(timeout=DEADLINE)
            for message in [header(DIGEST, len(DATA)), *chunks(DATA)[:2]]:
                await call.write(message)
            await until(lambda: came(client, 2 * CHUNK_BYTES))
            first.process.send_signal(kill)
            await asyncio.to_thread(first.process.wait, 15)
            with pytest.raises(grpc.RpcError):
                await call
    with registry_process(tmp_path) as second:
        async with Client(second.target) as client:
            kept = await committed(client)
            assert kept == 2 * CHUNK_BYTES
            await client.send([header(DIGEST, len(DATA)), *chunks(DATA, kept), FINISH])
            assert b"".join(piece.data for piece in await client.get(DIGEST)) == DATA


async def test_sigterm_lets_the_running_call_end_and_takes_no_new_one(tmp_path: Path) -> None:
    with registry_process(tmp_path, LORRY_REGISTRY_GRACE_SECONDS="30") as running:
        async with Client(running.target) as client, Client(running.target) as other:
            watch = health_pb2_grpc.HealthStub(other.channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            call = client.blobs.Upload(timeout=DEADLINE)
            for message in [header(DIGEST, len(DATA)), *chunks(DATA)[:2]]:
                await call.write(message)
            await until(lambda: came(client, 2 * CHUNK_BYTES))
            running.process.terminate()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            for message in [*chunks(DATA)[2:], FINISH]:
                await call.write(message)
            await call.done_writing()
            assert (await call).digest == DIGEST
        assert await asyncio.to_thread(running.process.wait, 15) == 0
        assert not is_serving(running.target, timeout=1)


async def test_reflection_lists_the_services(client: Client) -> None:
    ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answers = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo(ask)
    names = {service.name async for answer in answers for service in answer.list_services_response.service}
    assert {"lorry.v1.CatalogService", "lorry.v1.BlobService", "grpc.health.v1.Health"} <= names


async def test_the_text_of_a_defect_stays_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running_registry(tmp_path) as target, Client(target) as client:
        await client.register()
        await client.publish("cat")
        with closing(sqlite3.connect(tmp_path / "catalog.db")) as database, database:
            database.execute("UPDATE versions SET created = 'nobody foresaw this'")
        with pytest.raises(Internal) as caught:
            await client.call("GetVersion", adapter="cat")
    assert "nobody foresaw" not in caught.value.message
    assert "nobody foresaw" in caplog.text
    assert caught.value.metadata["incident"] in caplog.text


async def test_memory_stays_bounded_whatever_the_size_of_a_blob(tmp_path: Path) -> None:
    data = DATA * 48  # 192 MiB
    digest = digest_of(data)
    with registry_process(tmp_path) as running:
        async with Client(running.target) as client:
            process = psutil.Process(running.process.pid)
            await client.put(DATA)
            before = process.memory_info().rss
            peak = asyncio.create_task(highest(process))
            await client.send([header(digest, len(data)), *chunks(data), FINISH])
            request = blob_pb2.ReadRequest(digest=digest)
            read = sum([len(piece.data) async for piece in client.blobs.Read(request, timeout=DEADLINE)])
            peak.cancel()
    assert read == len(data)
    assert (await peak) - before < len(data) // 2


async def highest(process: psutil.Process) -> int:
    """The largest resident size until cancelled, in bytes."""
    peak = 0
    try:
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        return peak


@pytest.mark.postgres
async def test_a_postgresql_database_is_migrated_by_its_operator_alone(tmp_path: Path, empty_postgres_url: str) -> None:
    settings = {"database_url": empty_postgres_url}
    with pytest.raises(FailedPrecondition, match="run `lorry-registry migrate`"):
        async with running_registry(tmp_path, **settings):
            pass
    await asyncio.to_thread(upgrade, empty_postgres_url)
    async with running_registry(tmp_path, **settings) as target, Client(target) as client:
        await client.register()
        version = await client.publish("team/pirate", alias="prod")
        assert (await client.call("Resolve", adapter="team/pirate:prod")).version == version


def test_it_may_open_as_many_files_as_the_system_lets_it(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        with registry_process(tmp_path) as running:
            assert psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
