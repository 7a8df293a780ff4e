"""A real registry on a free port of loopback, in this process or in its own, on a folder of the test's.

Owns start and stop. Does not know what a test does with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self, Unpack

from adapter_registry.app import registry
from adapter_registry.settings import Settings
from lorry.format.base import BaseFacts
from lorry.format.digest import digest_of
from lorry.rpc.calls import translated
from lorry.rpc.channel import open_channel
from lorry.rpc.convert import base_to_pb
from lorry.rpc.credentials import Credentials
from lorry.v1 import blob_pb2, catalog_pb2, types_pb2
from lorry.v1.blob_pb2_grpc import BlobServiceStub
from lorry.v1.catalog_pb2_grpc import CatalogServiceStub
from tests.support.adapters import BASE_NAME, CONFIG, WEIGHTS, adapter_bytes, base_for
from tests.support.process import ServerProcess, server_process
from tests.support.uploads import FINISH, chunks, header

# Calls of tests end, right or wrong.
DEADLINE = 30.0


@asynccontextmanager
async def running_registry(folder: Path, **settings: Any) -> AsyncIterator[str]:
    """`host:port` of a registry in this process; SQLite and files below `folder`."""
    fields = {"listen": "127.0.0.1:0", "data_dir": folder, "grace_seconds": 0, **settings}
    async with registry(Settings(**fields)) as target:
        yield target


@contextmanager
def registry_process(folder: Path, *, listen: str = "127.0.0.1:0", **environment: str) -> Iterator[ServerProcess]:
    """`lorry-registry serve` on `folder`; ended when the block ends, if it has not by then."""
    ours = {"LORRY_REGISTRY_LISTEN": listen, "LORRY_REGISTRY_DATA_DIR": str(folder)}
    with server_process("adapter_registry", folder, ours | environment) as process:
        yield process


class Client:
    """Raw stubs with the few steps that most tests begin with. Errors are lorry.errors'."""

    def __init__(self, target: str, **credentials: Unpack[Credentials]) -> None:
        self.target = target
        self.channel = open_channel(target, **credentials)
        self.catalog = CatalogServiceStub(self.channel)
        self.blobs = BlobServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.channel.close()

    async def call(self, method: str, **fields: Any) -> Any:
        """A call of CatalogService by its name, the request's fields as keywords."""
        request = getattr(catalog_pb2, f"{method}Request")(**fields)
        with translated():
            return await getattr(self.catalog, method)(request, timeout=DEADLINE)

    async def send(self, messages: Sequence[blob_pb2.UploadRequest]) -> blob_pb2.UploadResponse:
        """An upload of exactly these messages."""

        async def stream() -> AsyncIterator[blob_pb2.UploadRequest]:
            for message in messages:
                yield message

        with translated():
            return await self.blobs.Upload(stream(), timeout=DEADLINE)

    async def put(self, data: bytes, name: str = "") -> types_pb2.File:
        """Store bytes; the File that names them."""
        digest = digest_of(data)
        await self.send([header(digest, len(data)), *chunks(data), FINISH])
        return types_pb2.File(name=name, digest=digest, size_bytes=len(data))

    async def get(self, digest: str, offset: int = 0, limit: int = 0) -> list[blob_pb2.ReadResponse]:
        """A blob's chunks."""
        request = blob_pb2.ReadRequest(digest=digest, offset=offset, limit=limit)
        with translated():
            return [piece async for piece in self.blobs.Read(request, timeout=DEADLINE)]

    async def register(self, facts: BaseFacts | None = None, name: str = BASE_NAME) -> BaseFacts:
        """Make a base known."""
        facts = facts or base_for()
        await self.call("RegisterBaseModel", base_model=base_to_pb(facts, name))
        return facts

    async def publish(self, adapter: str, files: tuple[bytes, bytes] | None = None, **fields: Any) -> types_pb2.Version:
        """Store the two files of an adapter and publish them."""
        config, weights = files or adapter_bytes()
        stored = [await self.put(config, CONFIG), await self.put(weights, WEIGHTS)]
        return (await self.call("CreateVersion", adapter=adapter, files=stored, **fields)).version


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what has no event to wait for; fails after the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110  # the state is another process's
            await asyncio.sleep(0.01)
