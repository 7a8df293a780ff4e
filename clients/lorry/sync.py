"""The clients for code without an event loop: same methods, same arguments, plain values and iterators.

    with lorry.sync.RegistryClient("127.0.0.1:7471") as client:
        for adapter in client.adapters(): ...

Owns the two faces, and the wrappers that bring a coroutine or a stream over to the caller's thread, by way
of lorry.background. Does not know any rpc.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from lorry import generation, registry, worker
from lorry.background import drain as _drain
from lorry.background import made as _made
from lorry.background import wait as _wait
from lorry.connection import Connection
from lorry.generation import GenerateOptions
from lorry.rpc.credentials import Credentials
from lorry.scoring import Item, score_requests
from lorry.search import Tried
from lorry.v1.inference_pb2 import GenerateResponse, ScoreResponse

P = ParamSpec("P")
T = TypeVar("T")
ClientT = TypeVar("ClientT", bound=Connection)
# A face of a client is one of each of its parts: the wrappers below take methods of either.
SeenT_co = TypeVar("SeenT_co", bound=Connection, covariant=True)


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

    def score(
        self, items: Iterable[Item], *, tenant: str = "", priority: int = 0, timeout: float | None = None
    ) -> Iterator[ScoreResponse]:
        """As lorry.WorkerClient.score. Items are read on this thread: they may take their time, or ask a client."""
        for call in score_requests(items, tenant=tenant, priority=priority):
            yield from _drain(_wait(_made(functools.partial(self._client._scored, [call], timeout))))  # noqa: SLF001 - the face's own

    def search(
        self, candidates: Sequence[Mapping[str, float]], examples: Sequence[Item], *, timeout: float | None = None
    ) -> Iterator[Tried]:
        """As lorry.WorkerClient.search."""
        given = list(candidates), list(examples)
        return _drain(_wait(_made(lambda: self._client.search(*given, timeout=timeout))))

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
