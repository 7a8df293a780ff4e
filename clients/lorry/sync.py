"""The clients for code without an event loop: same methods, same arguments, plain values and iterators.

    with lorry.sync.RegistryClient("127.0.0.1:7471") as client:
        for adapter in client.adapters(): ...

Owns one background thread with an event loop, shared by all clients of the process, and the two
wrappers that bring a coroutine or a stream over to the caller's thread. Does not know any rpc.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future, wait
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from lorry import generation, registry, worker
from lorry.connection import Connection
from lorry.generation import GenerateOptions
from lorry.rpc.credentials import Credentials
from lorry.v1.inference_pb2 import GenerateResponse

P = ParamSpec("P")
T = TypeVar("T")
ClientT = TypeVar("ClientT", bound=Connection)
# A face of a client is one of each of its parts: the wrappers below take methods of either.
SeenT_co = TypeVar("SeenT_co", bound=Connection, covariant=True)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="lorry-sync", daemon=True).start()
    return loop


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, done on the background loop; where the wait is interrupted, cancelled and ended there."""
    loop, done = _loop(), Future[T]()
    tasks: list[asyncio.Task[T]] = []

    def begin() -> None:
        tasks.append(loop.create_task(work))
        tasks[0].add_done_callback(lambda task: _settle(done, task))

    loop.call_soon_threadsafe(begin)
    try:
        return done.result()
    except BaseException:
        if not done.done():
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108 - there is a task once `begin` ran
            wait({done})  # a stream that still runs could not be closed
        raise


def _settle(done: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        done.set_exception(CancelledError())
    elif error := task.exception():
        done.set_exception(error)
    else:
        done.set_result(task.result())


_END: Any = object()


async def _made(make: Callable[[], T]) -> T:
    return make()


async def _next(stream: AsyncIterator[T]) -> T:
    return await anext(stream, _END)


async def _closed(stream: AsyncIterator[T]) -> None:
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()


def _drain(stream: AsyncIterator[T]) -> Iterator[T]:
    """The stream's items on the caller's thread; the stream is closed when the loop is left."""
    try:
        while (item := _wait(_next(stream))) is not _END:
            yield item
    finally:
        _wait(_closed(stream))


class _Face(Generic[SeenT_co]):
    """An asyncio client seen from outside of its loop."""

    _client: SeenT_co

    def within(self, timeout: float) -> Self:
        """The same connection with another deadline, in seconds."""
        other = copy.copy(self)
        other._client = self._client.within(timeout)  # noqa: SLF001 - a copy of our own
        return other

    def close(self) -> None:
        """End the channel and every call on it."""
        _wait(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _call(
    method: Callable[Concatenate[ClientT, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Face[ClientT], P], T]:
    """The method as a plain one."""

    @functools.wraps(method)
    def call(face: _Face[ClientT], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _wait(method(face._client, *args, **kwargs))  # noqa: SLF001 - the wrapper is the face's own

    return call


def _stream(
    method: Callable[Concatenate[ClientT, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Face[ClientT], P], Iterator[T]]:
    """The method as one that answers a plain iterator."""

    @functools.wraps(method)
    def stream(face: _Face[ClientT], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _drain(_wait(_made(lambda: method(face._client, *args, **kwargs))))  # noqa: SLF001 - likewise

    return stream


def _opened(
    method: Callable[Concatenate[ClientT, P], Coroutine[Any, Any, AsyncIterator[T]]],
) -> Callable[Concatenate[_Face[ClientT], P], Iterator[T]]:
    """As `_stream`, for a method that answers once its stream has begun."""

    @functools.wraps(method)
    def stream(face: _Face[ClientT], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _drain(_wait(method(face._client, *args, **kwargs)))  # noqa: SLF001 - likewise

    return stream


class RegistryClient(_Face[registry.RegistryClient]):
    """lorry.RegistryClient without an event loop. Arguments as there."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float = registry.DEFAULT_TIMEOUT_SECONDS,
        **credentials: Unpack[Credentials],
    ) -> None:
        self._client = _wait(_made(lambda: registry.RegistryClient(address, timeout=timeout, **credentials)))

    register_base_model = _call(registry.RegistryClient.register_base_model)
    base_model = _call(registry.RegistryClient.base_model)
    base_models = _stream(registry.RegistryClient.base_models)
    update_base_model = _call(registry.RegistryClient.update_base_model)
    create_version = _call(registry.RegistryClient.create_version)
    version = _call(registry.RegistryClient.version)
    versions = _stream(registry.RegistryClient.versions)
    yank = _call(registry.RegistryClient.yank)
    delete_version = _call(registry.RegistryClient.delete_version)
    adapter = _call(registry.RegistryClient.adapter)
    adapters = _stream(registry.RegistryClient.adapters)
    update_adapter = _call(registry.RegistryClient.update_adapter)
    delete_adapter = _call(registry.RegistryClient.delete_adapter)
    set_alias = _call(registry.RegistryClient.set_alias)
    delete_alias = _call(registry.RegistryClient.delete_alias)
    rollback_alias = _call(registry.RegistryClient.rollback_alias)
    aliases = _stream(registry.RegistryClient.aliases)
    recipe = _call(registry.RegistryClient.recipe)
    lineage = _call(registry.RegistryClient.lineage)
    renew_leases = _call(registry.RegistryClient.renew_leases)
    leases = _stream(registry.RegistryClient.leases)
    resolve = _call(registry.RegistryClient.resolve)
    check_compatibility = _call(registry.RegistryClient.check_compatibility)
    demand_compatible = _call(registry.RegistryClient.demand_compatible)
    check = _call(registry.RegistryClient.check)
    verdicts = _stream(registry.RegistryClient.verdicts)
    watch = _stream(registry.RegistryClient.watch)
    listen = _opened(registry.RegistryClient.listen)
    namespace = _call(registry.RegistryClient.namespace)
    namespaces = _stream(registry.RegistryClient.namespaces)
    update_namespace = _call(registry.RegistryClient.update_namespace)
    collect_garbage = _call(registry.RegistryClient.collect_garbage)
    fsck = _stream(registry.RegistryClient.fsck)
    find_missing = _call(registry.RegistryClient.find_missing)
    query_upload = _call(registry.RegistryClient.query_upload)
    upload = _call(registry.RegistryClient.upload)
    read = _stream(registry.RegistryClient.read)
    download = _call(registry.RegistryClient.download)
    receive = _call(registry.RegistryClient.receive)
    push = _call(registry.RegistryClient.push)
    sign_version = _call(registry.RegistryClient.sign_version)
    verify = _call(registry.RegistryClient.verify)
    pull = _call(registry.RegistryClient.pull)
    create_token = _call(registry.RegistryClient.create_token)
    grant_certificate = _call(registry.RegistryClient.grant_certificate)
    principals = _stream(registry.RegistryClient.principals)
    revoke_principal = _call(registry.RegistryClient.revoke_principal)
    whoami = _call(registry.RegistryClient.whoami)
    audit_entries = _stream(registry.RegistryClient.audit_entries)


class WorkerClient(_Face[worker.WorkerClient]):
    """lorry.WorkerClient without an event loop. Arguments as there."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float = worker.DEFAULT_TIMEOUT_SECONDS,
        **credentials: Unpack[Credentials],
    ) -> None:
        self._client = _wait(_made(lambda: worker.WorkerClient(address, timeout=timeout, **credentials)))

    def generate(
        self, prompt: str | None = None, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Begin a generation; see lorry.WorkerClient.generate."""
        return Generation(_wait(_made(lambda: self._client.generate(prompt, timeout=timeout, **options))))

    score = _stream(worker.WorkerClient.score)
    search = _stream(worker.WorkerClient.search)
    interpolate = _call(worker.WorkerClient.interpolate)
    switch = _call(worker.WorkerClient.switch)
    split = _call(worker.WorkerClient.split)
    share = _call(worker.WorkerClient.share)
    route = _call(worker.WorkerClient.route)
    routes = _stream(worker.WorkerClient.routes)
    route_history = _stream(worker.WorkerClient.route_history)
    rollback_route = _call(worker.WorkerClient.rollback_route)
    delete_route = _call(worker.WorkerClient.delete_route)
    load = _call(worker.WorkerClient.load)
    unload = _call(worker.WorkerClient.unload)
    pin = _call(worker.WorkerClient.pin)
    unpin = _call(worker.WorkerClient.unpin)
    residents = _stream(worker.WorkerClient.residents)
    watch = _stream(worker.WorkerClient.watch)
    combine = _call(worker.WorkerClient.combine)
    capabilities = _call(worker.WorkerClient.capabilities)


class Generation:
    """An answer on its way: iterate over the messages once, or take `text()`.

    Leaving the loop early cancels the generation on the worker.
    """

    def __init__(self, generation: generation.Generation) -> None:
        self._generation = generation

    def __iter__(self) -> Iterator[GenerateResponse]:
        return _drain(aiter(self._generation))

    def text(self) -> str:
        """The whole answer. Raises what the worker raised."""
        return _wait(self._generation.text())

    def close(self) -> None:
        """Cancel what is still to come."""
        _wait(self._generation.aclose())
