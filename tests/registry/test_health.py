"""Health follows the database and the blob store, down and up again, without a restart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adapter_registry.service.health import Check, StoreQuestion
from adapter_registry.service.pool import Pool
from adapter_registry.store.migrate import upgrade
from lorry.errors import StorageUnavailable
from lorry.rpc.serving import serving
from tests.support.postgres import PostgresServer
from tests.support.registry import Client, running_registry
from tests.support.s3 import S3Server

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
OFTEN = 0.02
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"


@asynccontextmanager
async def watched(target: str, service: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """The next status that a watcher of a service's health hears."""
    async with Client(target) as client:
        call = health_pb2_grpc.HealthStub(client.channel).Watch(health_pb2.HealthCheckRequest(service=service))

        async def heard() -> int:
            return int((await call.read()).status)

        assert await heard() == SERVING
        yield heard
        call.cancel()


@pytest.mark.parametrize("service", ["", "lorry.v1.BlobService"])
async def test_a_database_file_that_was_moved_away_and_came_back(tmp_path: Path, service: str) -> None:
    async with running_registry(tmp_path, health_seconds=OFTEN) as target, watched(target, service) as heard:
        aside = (tmp_path / "catalog.db").rename(tmp_path / "aside.db")
        assert await heard() == NOT_SERVING
        aside.rename(tmp_path / "catalog.db")
        assert await heard() == SERVING


async def test_a_blob_folder_that_cannot_be_written(tmp_path: Path) -> None:
    async with running_registry(tmp_path, health_seconds=OFTEN) as target, watched(target, "") as heard:
        aside = (tmp_path / "uploads").rename(tmp_path / "aside")
        assert await heard() == NOT_SERVING
        aside.rename(tmp_path / "uploads")
        assert await heard() == SERVING


@pytest.mark.s3
async def test_an_s3_server_that_was_killed_and_started_again(tmp_path: Path, s3_server: S3Server) -> None:
    s3 = s3_server.settings
    store = {
        "blobs": "s3://bucket",
        "s3_endpoint": s3.endpoint,
        "s3_access_key_id": s3.access_key_id,
        "s3_secret_access_key": s3.secret_access_key,
    }
    async with (
        running_registry(tmp_path / "data", health_seconds=OFTEN, **store) as target,
        watched(target, "lorry.v1.CatalogService") as heard,
    ):
        s3_server.kill()
        assert await heard() == NOT_SERVING
        s3_server.start()
        assert await heard() == SERVING


@pytest.mark.postgres
async def test_a_postgresql_database_that_takes_no_connections(tmp_path: Path, postgres_server: PostgresServer) -> None:
    with postgres_server.empty() as url:
        upgrade(url)
        name = url.split("@/")[1].split("?")[0]
        async with (
            running_registry(tmp_path, health_seconds=OFTEN, database_url=url) as target,
            watched(target, "") as heard,
        ):
            postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            postgres_server.execute(CUT.format(name))
            assert await heard() == NOT_SERVING
            postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            assert await heard() == SERVING


async def test_draining_is_not_overruled() -> None:
    async with serving("127.0.0.1:0", [], draining=asyncio.Event(), grace=0) as listening:
        pass
    await listening.set_health(well=True)
    assert (await listening.health.Check(health_pb2.HealthCheckRequest(), None)).status == NOT_SERVING


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(1, "health")
    yield pool
    pool.close()


async def test_an_answer_that_does_not_come_is_a_complaint_and_is_not_asked_for_twice(pool: Pool) -> None:
    go_on, asked = threading.Event(), []

    def ask() -> None:
        asked.append(1)
        go_on.wait()

    check = Check("store", ask, pool, patience=0.01)
    assert [await check.complaint(), await check.complaint()] == ["no answer within 0.01 s"] * 2
    go_on.set()
    while await check.complaint():
        pass
    assert len(asked) == 1


async def test_a_defect_of_a_check_is_no_complaint(pool: Pool) -> None:
    def ask() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Check("store", ask, pool).complaint()


def test_a_store_is_written_now_and_then_and_as_long_as_it_is_ill() -> None:
    asked: list[str] = []
    ill = False

    def ask(what: str) -> None:
        asked.append(what)
        if ill:
            raise StorageUnavailable("ill")

    question = StoreQuestion(lambda: ask("look"), lambda: ask("write"), rarely=2)
    for _ in range(6):
        question()
    assert asked == ["look", "look", "write"] * 2
    ill = True
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            question()
    assert asked[6:] == ["look", "write", "write"]
    ill = False
    question()
    question()
    assert asked[9:] == ["write", "look"]
