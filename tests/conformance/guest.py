"""One caller of a registry, over a real socket, in a namespace of its own.

Owns the way from an rpc's name and fields to its answer, and what a test begins with: a base, an
adapter's files, bytes that nobody else has. Knows the contract alone: no server, no file, no database.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Unpack

import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from lorry import RegistryClient
from lorry.errors import AdapterNotFound, Internal
from lorry.format.digest import digest_of
from lorry.rpc.calls import translated
from lorry.rpc.channel import open_channel
from lorry.rpc.credentials import Credentials
from lorry.v1 import access_pb2, admin_pb2, blob_pb2, catalog_pb2, types_pb2
from tests.support.adapters import CONFIG, WEIGHTS, adapter_bytes, base_for
from tests.support.uploads import FINISH, chunks, header

METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file in (catalog_pb2, blob_pb2, admin_pb2, access_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
# Calls end, right or wrong.
DEADLINE = 30.0
# The suite's base stays behind: no call deletes bases. So it is the same one in every run.
BASE = "conformance-base"
BASE_FACTS = base_for(seed=7_472)
NOWHERE = "sha256:" + "0" * 64

Take = Callable[[int], Awaitable[list[catalog_pb2.WatchResponse]]]


class Guest:
    """`call("Resolve", adapter="pirate")`: any rpc by its name, the request's fields as keywords.

    An adapter, parent or namespace that is not given in full is in the guest's own namespace. Errors
    are lorry.errors'. sdk: the same caller with the SDK.
    """

    def __init__(self, target: str, **credentials: Unpack[Credentials]) -> None:
        run = uuid.uuid4()
        self.namespace = f"conformance-{run.hex[:16]}"
        self.target = target
        self.credentials = credentials
        self.sdk = RegistryClient(target, **credentials)
        self._channel = open_channel(target, **credentials)
        # Seeds of adapters that nobody else publishes.
        self._first_seed = run.int % (1 << 32) * 1_000

    async def close(self) -> None:
        await self.sdk.close()
        await self._channel.close()

    async def call(self, rpc: str, **fields: Any) -> Any:
        """The answer of a call with one request and one answer."""
        with translated():
            return await self._method(rpc)(self.request(rpc, **fields), timeout=DEADLINE)

    async def stream(self, rpc: str, **fields: Any) -> list[Any]:
        """All answers of a call with many."""
        with translated():
            return [answer async for answer in self.open(rpc, **fields)]

    def open(self, rpc: str, **fields: Any) -> Any:
        """The running call itself, to be read and cancelled."""
        return self._method(rpc)(self.request(rpc, **fields), timeout=DEADLINE)

    def upload(self) -> Any:
        """An upload that has not said anything yet."""
        return self._method("Upload")(timeout=DEADLINE)

    async def send(self, messages: Sequence[Message]) -> blob_pb2.UploadResponse:
        """An upload of exactly these messages, as it was answered."""
        while True:
            try:
                return await self._send_once(messages)
            except Internal as error:  # a write to a call that had ended; gRPC lost the answer
                if not error.message.endswith("Internal error from Core"):
                    raise

    async def _send_once(self, messages: Sequence[Message]) -> blob_pb2.UploadResponse:
        async def each() -> AsyncIterator[Message]:
            for message in messages:
                yield message

        with translated():
            return await self._method("Upload")(each(), timeout=DEADLINE)

    def request(self, rpc: str, **fields: Any) -> Any:
        """The request, names spelt in full."""
        made = message_factory.GetMessageClass(METHODS[rpc].input_type)
        namespace = made.DESCRIPTOR.fields_by_name.get("namespace")
        if namespace is not None and namespace.message_type is None:
            fields = {"namespace": self.namespace} | fields
        if isinstance(fields.get("adapter"), str):
            fields["adapter"] = self.own(fields["adapter"])
        for name in {"adapters", "parents"} & fields.keys():
            fields[name] = [self.own(reference) for reference in fields[name]]
        return made(**fields)

    def own(self, reference: str) -> str:
        return reference if "/" in reference or not reference else f"{self.namespace}/{reference}"

    def data(self, size: int) -> bytes:
        """Bytes that nobody else has."""
        return hashlib.shake_256(self.namespace.encode()).digest(size)

    def files(self, seed: int = 0, **options: Any) -> tuple[bytes, bytes]:
        """adapter_config.json and weights of an adapter that nobody else has."""
        return adapter_bytes(seed=self._first_seed + seed, **({"base_name": BASE} | options))

    async def put(self, data: bytes, name: str = "") -> types_pb2.File:
        """Store bytes; the File that names them."""
        digest = digest_of(data)
        await self.send([header(digest, len(data), self.namespace), *chunks(data), FINISH])
        return types_pb2.File(name=name, digest=digest, size_bytes=len(data))

    async def stored(self, seed: int = 0, **options: Any) -> list[types_pb2.File]:
        config, weights = self.files(seed, **options)
        return [await self.put(config, CONFIG), await self.put(weights, WEIGHTS)]

    async def publish(
        self, adapter: str, seed: int = 0, options: dict[str, Any] | None = None, **fields: Any
    ) -> types_pb2.Version:
        """Store the two files of an adapter and publish them. options: of `files`."""
        files = await self.stored(seed, **(options or {}))
        return (await self.call("CreateVersion", adapter=adapter, files=files, **fields)).version

    async def several(self, count: int, **fields: Any) -> list[types_pb2.Version]:
        """So many versions of the adapter `pirate`."""
        return [await self.publish("pirate", seed, **fields) for seed in range(count)]

    @asynccontextmanager
    async def watching(self, **fields: Any) -> AsyncIterator[Take]:
        """A watch that misses nothing that happens inside of the block."""
        call = self.open("Watch", **fields)
        with translated():
            await call.wait_for_connection()

        async def take(count: int) -> list[catalog_pb2.WatchResponse]:
            with translated():
                return [await call.read() for _ in range(count)]

        try:
            yield take
        finally:
            call.cancel()

    async def clean(self) -> None:
        """Delete all that is in the namespace, and lift its limits."""
        async for adapter in self.sdk.adapters(namespace=self.namespace):
            try:
                await self.sdk.delete_adapter(f"{self.namespace}/{adapter.name}", force=True)
            except AdapterNotFound:  # somebody else's deletion came first
                continue
        if (await self.sdk.namespace(self.namespace)).revision:
            await self.sdk.update_namespace(self.namespace, max_bytes=0, max_versions=0, trusted_keys=[])

    def _method(self, rpc: str) -> Any:
        method = METHODS[rpc]
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        multi: Callable[..., grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = getattr(self._channel, kind)
        return multi(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what has no event to wait for; fails after the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110 - the state is the registry's
            await asyncio.sleep(0.01)
