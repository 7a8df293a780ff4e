from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lorry.errors import InvalidInput
from lorry.rpc.calls import translated
from lorry.rpc.channel import open_channel, service_config
from lorry.rpc.serving import CannotListen, Listening, Service, is_serving, serving, write_port_file
from lorry.v1 import access_pb2, admin_pb2, blob_pb2, blob_pb2_grpc, catalog_pb2, inference_pb2, residency_pb2


class Nothing(blob_pb2_grpc.BlobServiceServicer):
    pass


BLOBS = Service(
    "lorry.v1.BlobService", lambda server: blob_pb2_grpc.add_BlobServiceServicer_to_server(Nothing(), server)
)


def started(
    listen: str = "127.0.0.1:0", draining: asyncio.Event | None = None, grace: float = 0
) -> AbstractAsyncContextManager[Listening]:
    return serving(listen, [BLOBS], draining=draining or asyncio.Event(), grace=grace)


async def test_a_server_tells_its_port_and_health() -> None:
    async with started() as server, open_channel(server.address) as channel:
        assert not server.address.endswith(":0")
        for name in ("", "lorry.v1.BlobService"):
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert await asyncio.to_thread(is_serving, server.address, timeout=10)
    assert not await asyncio.to_thread(is_serving, server.address, timeout=10)


async def test_reflection_lists_the_services() -> None:
    async with started() as server, open_channel(server.address) as channel:
        ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask)
        listed = [service.name async for answer in answers for service in answer.list_services_response.service]
    assert set(listed) == {
        "lorry.v1.BlobService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_a_taken_port_is_refused_by_name() -> None:
    async with started() as first:
        with pytest.raises(CannotListen, match=f"cannot listen on {first.address}"):
            async with started(first.address):
                pass


async def test_draining_turns_health_first_and_lets_calls_end() -> None:
    draining = asyncio.Event()
    seen = []
    async with started(draining=draining, grace=10) as server:
        channel = open_channel(server.address)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        seen.append((await watch.read()).status)
        reader = asyncio.create_task(watch.read())
        seen_later = reader
        leaver = asyncio.create_task(_cancel_when(draining, watch, reader))
    seen.append((await seen_later).status)
    await leaver
    await channel.close()
    serving_status = health_pb2.HealthCheckResponse
    assert seen == [serving_status.SERVING, serving_status.NOT_SERVING]


async def _cancel_when(draining: asyncio.Event, watch: grpc.aio.Call, reader: asyncio.Task[object]) -> None:
    await draining.wait()
    await reader
    watch.cancel()


async def test_bytes_that_are_no_message_are_refused_without_the_parsers_text() -> None:
    async with started() as server, open_channel(server.address) as channel:
        with (
            pytest.raises(InvalidInput, match="expected a protobuf message of /lorry"),
            translated(),
        ):
            async for _ in channel.unary_stream("/lorry.v1.BlobService/Read")(b"\xff\xff", timeout=10):
                pass


def test_a_port_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "port"
    path.write_text("older and longer than what comes now")
    write_port_file(path, "127.0.0.1:5")
    assert path.read_text() == "127.0.0.1:5\n"
    assert list(tmp_path.iterdir()) == [path]


def test_the_channel_retries_only_methods_that_exist() -> None:
    files = (access_pb2, admin_pb2, blob_pb2, catalog_pb2, inference_pb2, residency_pb2)
    known = {
        (service.full_name, method.name)
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    } | {("grpc.health.v1.Health", "Check")}
    (config,) = json.loads(service_config())["methodConfig"]
    assert {(entry["service"], entry["method"]) for entry in config["name"]} <= known
