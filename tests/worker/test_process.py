"""The worker as a process: when it says that it serves, how it stops, and what its command answers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from transformers import BloomConfig, BloomForCausalLM

from compute_worker.__main__ import main
from compute_worker.app import serve
from compute_worker.engine import selfcheck
from lorry import RegistryClient, WorkerClient
from lorry.errors import Draining, Unavailable, UnsupportedModel
from lorry.rpc.channel import open_channel
from lorry.rpc.serving import is_serving
from lorry.v1.inference_pb2 import GenerateRequest
from lorry.v1.residency_pb2 import WatchResidencyRequest
from tests.support.pair import Pair, Stubs
from tests.support.registry import DEADLINE, running_registry
from tests.support.worker import (
    MODEL_NAME,
    running_worker,
    save_model,
    tiny_adapter,
    tiny_base,
    worker_process,
    worker_settings,
)

NOWHERE = "127.0.0.1:1"
Run: TypeAlias = Callable[..., tuple[int, list[str]]]
Stopping: TypeAlias = tuple[Stubs, Callable[[], Awaitable[None]]]


def free_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with settings of its own; the exit code and the last line that it said."""

    def run_command(*arguments: str, **settings: str) -> tuple[int, list[str]]:
        for name in os.environ:
            if name.startswith("LORRY_WORKER_"):
                monkeypatch.delenv(name)
        for name, value in ({"CACHE_DIR": str(tmp_path / "own"), "LISTEN": "127.0.0.1:0"} | settings).items():
            monkeypatch.setenv(f"LORRY_WORKER_{name}", value)
        return main(arguments), capsys.readouterr().err.splitlines()[-1:]

    return run_command


async def test_it_serves_once_the_engine_has_checked_itself(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, order = free_address(), []
    compare = selfcheck.compare

    def checked(*arguments: object) -> None:
        order.append(("check", is_serving(address, timeout=0.5)))
        compare(*arguments)

    monkeypatch.setattr(selfcheck, "compare", checked)
    ready = asyncio.Event()
    serving = asyncio.create_task(
        serve(worker_settings(tmp_path, model, NOWHERE, listen=address), lambda _: ready.set())
    )
    await ready.wait()
    order.append(("ready", await asyncio.to_thread(is_serving, address, timeout=5)))
    os.kill(os.getpid(), 15)
    await serving
    assert order == [("check", False), ("ready", True)]


async def test_a_model_that_cannot_be_served_exactly_never_listens(tmp_path: Path) -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=131, hidden_size=8, n_layer=1, n_head=2))
    folder, ready = save_model(tmp_path / "bloom", bloom), []
    with pytest.raises(UnsupportedModel, match="bloom"):
        await serve(worker_settings(tmp_path, folder, NOWHERE), ready.append)
    assert not ready


async def test_health_and_reflection_answer(pair: Pair) -> None:
    async with open_channel(pair.serving.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "lorry.v1.InferenceService", "lorry.v1.ResidencyService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask)
        names = {service.name async for answer in answers for service in answer.list_services_response.service}
    assert {"lorry.v1.InferenceService", "lorry.v1.ResidencyService", "grpc.health.v1.Health"} <= names


async def test_sigterm_lets_running_requests_end_and_takes_no_new_one(tmp_path: Path, model: Path) -> None:
    with worker_process(tmp_path, model, NOWHERE, grace_seconds=60) as running:
        async with WorkerClient(running.target) as client, open_channel(running.target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            answers = [client.generate("x", adapters=[], max_new_tokens=300, ignore_eos=True) for _ in range(3)]
            streams = [aiter(answer) for answer in answers]
            for stream in streams:
                await anext(stream)
            running.process.terminate()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            with pytest.raises(Unavailable):
                async with WorkerClient(running.target) as late:
                    await late.generate("x", adapters=[], timeout=DEADLINE).text()
            ends = [[message async for message in stream][-1] for stream in streams]
            assert [end.finished.completion_tokens for end in ends] == [300] * 3
        assert await asyncio.to_thread(running.process.wait, 15) == 0
        assert not is_serving(running.target, timeout=1)


@pytest.fixture
async def stopping(tmp_path: Path, model: Path) -> AsyncIterator[Stopping]:
    """A worker that holds an adapter and whose callers outlive it, and what stops it."""
    async with running_registry(tmp_path / "registry") as address, AsyncExitStack() as stack:
        async with RegistryClient(address) as registry:
            await registry.register_base_model(MODEL_NAME, tiny_base())
            await registry.push(tiny_adapter(tmp_path / "adapter", seed=1), "plain")
        serving = await stack.enter_async_context(running_worker(tmp_path, model, address))
        stubs = Stubs(serving.target)
        await stubs.call("Load", adapter="plain")
        yield stubs, stack.aclose
        await stubs.channel.close()


async def test_a_watch_ends_with_the_drain(stopping: Stopping) -> None:
    stubs, stop = stopping
    call = stubs.residency.WatchResidency(WatchResidencyRequest())
    messages = asyncio.create_task(stubs.read_all(call))
    await call.initial_metadata()
    await stop()
    with pytest.raises(Draining):
        await messages


async def test_what_outlives_the_grace_is_told_so(stopping: Stopping) -> None:
    stubs, stop = stopping  # the grace is none: on a fast machine this many tokens are done within half a second
    endless = GenerateRequest(text="x", stop={"max_new_tokens": 2000, "ignore_eos": True})
    call = stubs.inference.Generate(endless)
    messages = asyncio.create_task(stubs.read_all(call))
    await call.initial_metadata()
    await stop()
    with pytest.raises(Draining):
        await messages


async def test_health_tells_whether_the_worker_serves(pair: Pair, run: Run) -> None:
    assert await asyncio.to_thread(run, "health", LISTEN=pair.serving.target) == (0, [])
    code, said = await asyncio.to_thread(run, "health", LISTEN=NOWHERE)
    assert (code, said) == (1, [f"lorry-worker: the worker on {NOWHERE} is not serving"])


def test_a_taken_port_is_told_in_one_line(model: Path, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = run("serve", LISTEN=address, MODEL=str(model), DTYPE="float32")
    assert (code, said) == (
        1,
        [f"lorry-worker: cannot listen on {address}: is the address right, and is the port free?"],
    )


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"LISTEN": "0.0.0.0:0"}, 2, "LORRY_WORKER_INSECURE=true"),
        ({"KV_BYTES": "0"}, 2, "LORRY_WORKER_KV_BYTES"),
        ({"MODEL": "/nowhere"}, 1, "expected a Hugging Face folder, GGUF file or hub id, got '/nowhere'"),
        ({"MODEL": ""}, 1, "LORRY_WORKER_MODEL"),
        ({"MODEL": "{model}", "DEVICE": "abacus"}, 1, "abacus"),
        ({"MODEL": "{model}", "POOL_BYTES": "1"}, 1, "expected a pool of at least one row"),
        ({"MODEL": "{model}", "KV_BYTES": "1"}, 1, "expected a KV cache of at least"),
        ({"MODEL": "{model}", "CACHE_DIR": "/dev/null/x"}, 1, "cache folder"),
    ],
)
def test_wrong_settings_are_told_in_one_line(
    model: Path, run: Run, settings: dict[str, str], code: int, said: str
) -> None:
    filled = {name: value.replace("{model}", str(model)) for name, value in settings.items()}
    assert (answer := run("serve", **filled))[0] == code, answer
    assert said in answer[1][0]


@pytest.mark.parametrize("arguments", [[], ["dance"], ["serve", "--port"]])
def test_wrong_usage_exits_with_2(run: Run, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
