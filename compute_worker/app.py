"""The worker, wired: settings in, a serving process out.

Owns which part gets which other part, and the order of start and stop. Does not know how any of
them works; it is the one place that sees engine, merges, runtime and wire together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import version

from compute_worker.contract import Engine
from compute_worker.engine.build import EngineSettings, build_engine
from compute_worker.merge.combiner import TorchCombiner
from compute_worker.merge.methods import METHODS
from compute_worker.metrics import worker_metrics
from compute_worker.rpc.access import Access
from compute_worker.rpc.inference import InferenceServicer
from compute_worker.rpc.residency import Capabilities, ResidencyServicer
from compute_worker.runtime.api import GenerateCall, Stop
from compute_worker.runtime.callers import Callers
from compute_worker.runtime.runtime import Runtime
from compute_worker.runtime.selection import MAX_ADAPTERS
from compute_worker.runtime.settings import RuntimeSettings
from compute_worker.runtime.signatures import read_policy
from compute_worker.settings import Settings
from compute_worker.source import RegistrySource
from compute_worker.wording import Tokenizer
from lorry.errors import Internal, InvalidInput
from lorry.registry import RegistryClient
from lorry.rpc.interceptor import CallWatcher
from lorry.rpc.logs import AccessLog
from lorry.rpc.metrics import CallMetrics, OnLoop, exposing
from lorry.rpc.serving import Door, Service, serving, stop_signal
from lorry.v1 import inference_pb2_grpc, residency_pb2_grpc

_log = logging.getLogger(__name__)

# The runtime ends what outlives the grace in its own words; they have so long to reach the callers: the 2.5 s
# that the runtime takes at most, and as much again for the wire.
_LAST_WORD_SECONDS = 5.0

# One token out of one, whatever the tokenizer knows.
_FIRST = GenerateCall(tokens=(0,), selection=(), stop=Stop(max_new_tokens=1, ignore_eos=True))


def engine_settings(settings: Settings) -> EngineSettings:
    """The engine's part of the settings. Raises InvalidInput where no model is named."""
    if not settings.model:
        raise InvalidInput("LORRY_WORKER_MODEL: expected a Hugging Face folder or hub id, got nothing")
    return EngineSettings(
        model=settings.model,
        device=settings.device,
        dtype=settings.dtype,
        pool_bytes=settings.pool_bytes,
        kv_bytes=settings.kv_bytes,
        max_context=settings.max_context,
        threads=settings.threads,
        executor=settings.executor,
    )


def runtime_settings(settings: Settings) -> RuntimeSettings:
    """The runtime's part of the settings."""
    return RuntimeSettings(
        cache_dir=settings.cache_dir,
        host_bytes=settings.host_budget,
        disk_bytes=settings.disk_bytes,
        queue=settings.queue,
        sessions=settings.sessions,
        session_seconds=settings.session_seconds,
        prefill_tokens=settings.prefill_tokens,
        max_batch=settings.max_batch,
        default_wait=settings.wait_seconds,
        tool=f"lorry {version('lorry')}",
        base_name=settings.base_name,
        holder=settings.holder,
        signatures=read_policy(settings.trusted_keys),
        eviction=settings.eviction,
        speculation=settings.speculation != "off",
    )


@asynccontextmanager
async def worker(settings: Settings, engine: Engine, tokenizer: Tokenizer) -> AsyncIterator[str]:
    """Serve for the time of the block, once a first generation has worked; yields `host:port` as bound.

    Raises CannotListen, Internal.
    """
    draining = asyncio.Event()
    async with RegistryClient(settings.registry, **settings.registry_credentials()) as registry:
        source = RegistrySource(registry)
        runtime = Runtime(engine, tokenizer, source, TorchCombiner(engine.weight), runtime_settings(settings))
        callers = Callers(source, settings.auth_grace_seconds)
        access = [Access(callers, runtime)] if settings.auth == "registry" else []
        calls = CallMetrics()
        watchers: list[CallWatcher] = [AccessLog(every=settings.access_log), calls]
        await runtime.start()
        try:
            await _rehearse(runtime)
            async with (
                exposing(settings.metrics_listen, [calls, OnLoop(lambda: worker_metrics(runtime.figures()))]),
                _whole(runtime),
                _drained(runtime, draining, settings.grace_seconds),
                serving(
                    settings.listen,
                    _services(runtime, engine, settings),
                    draining=draining,
                    grace=settings.grace_seconds + _LAST_WORD_SECONDS,
                    door=Door(settings.tls, access, watchers),
                ) as listening,
            ):
                yield listening.address
        finally:
            await callers.close()
            await runtime.close()


async def _rehearse(runtime: Runtime) -> None:
    """A generation as a caller's: a worker that cannot do it is never ready. Raises what generating raises."""
    async with aclosing(runtime.generate(_FIRST)) as events:
        async for _ in events:
            pass


@asynccontextmanager
async def _whole(runtime: Runtime) -> AsyncIterator[None]:
    """Ends the block with Internal where the engine's thread ends by itself: who watches the process starts another."""
    body = asyncio.current_task()

    async def watch() -> None:
        await runtime.broken.wait()
        if body is not None:
            body.cancel()

    task = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not runtime.broken.is_set():
            raise
        raise Internal("the engine's thread has ended") from None
    finally:
        task.cancel()


@asynccontextmanager
async def _drained(runtime: Runtime, draining: asyncio.Event, grace: float) -> AsyncIterator[None]:
    async def drain() -> None:
        await draining.wait()
        await runtime.drain(grace)

    task = asyncio.create_task(drain())
    try:
        yield
    finally:
        task.cancel()


def _services(runtime: Runtime, engine: Engine, settings: Settings) -> list[Service]:
    capabilities = Capabilities(settings.base_name, engine.executor, tuple(METHODS), MAX_ADAPTERS)
    inference = InferenceServicer(runtime)
    residency = ResidencyServicer(runtime, engine, capabilities)
    return [
        Service(
            "lorry.v1.InferenceService",
            lambda server: inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server),
        ),
        Service(
            "lorry.v1.ResidencyService",
            lambda server: residency_pb2_grpc.add_ResidencyServiceServicer_to_server(residency, server),
        ),
    ]


async def _built(settings: EngineSettings) -> tuple[Engine, Tokenizer]:
    # In a thread that ends with it. OpenMP keeps a team of threads for every thread that computed; with
    # more teams than cores the engine's own sleeps at each barrier, and a step takes twice as long.
    with ThreadPoolExecutor(1) as once:
        return await asyncio.get_running_loop().run_in_executor(once, build_engine, settings)


async def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Load the base, serve until SIGTERM or SIGINT, drain. `ready` gets the bound address.

    Raises UnsupportedModel, CannotListen, Internal.
    """
    engine, tokenizer = await _built(engine_settings(settings))
    _log.info("base %s is loaded: %s, executor %s", settings.base_name, engine.base.base_id, engine.executor)
    async with worker(settings, engine, tokenizer) as address:
        _log.info("serving on %s", address)
        ready(address)
        await stop_signal()
        _log.info("draining")
