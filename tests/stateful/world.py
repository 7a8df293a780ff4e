"""A real registry in this process, begun anew for every sequence, on the loop of lorry.sync.

Owns its folder or its database and bucket, start, stop and the two clients. A sequence begins with a
copy of an empty registry, since making one takes longer than a sequence. Does not know the model.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from adapter_registry.blobs.filesystem import FileStore
from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.store.migrate import upgrade
from lorry import sync
from lorry.rpc.calls import translated
from lorry.v1 import catalog_pb2
from lorry.v1.blob_pb2 import UploadRequest
from tests.stateful.model import Model
from tests.support.blocking import blocking
from tests.support.postgres import PostgresServer
from tests.support.registry import DEADLINE, Client, running_registry
from tests.support.upkeep import Place, file_place, s3_place
from tests.support.uploads import FINISH, chunk

# Garbage has no grace, and is collected and health looked at only when we say so.
_SETTINGS = {"keep_seconds": 0, "gc_seconds": 0, "health_seconds": 3_600}


class Ground(Protocol):
    """Where registries keep things. model: what is in a fresh one."""

    model: Model

    def fresh(self, folder: Path) -> tuple[Place, dict[str, Any]]:
        """An empty place for a registry, and the settings that it needs."""


class FileGround:
    """SQLite and files."""

    def __init__(self, folder: Path) -> None:
        self.model = Model()
        self._template = folder / "template"
        FileStore(self._template)
        upgrade(f"sqlite:///{self._template}/catalog.db")

    def fresh(self, folder: Path) -> tuple[Place, dict[str, Any]]:
        shutil.copytree(self._template, folder)
        return file_place(folder, f"sqlite:///{folder}/catalog.db"), {}

    def begin_with(self, folder: Path, model: Model) -> None:
        """From now on a fresh registry is as the one in the folder, of which nothing may run."""
        shutil.rmtree(self._template)
        shutil.copytree(folder, self._template)
        self.model = model


class ServedGround:
    """PostgreSQL and S3."""

    def __init__(self, postgres: PostgresServer, s3: S3Settings) -> None:
        self.model = Model()
        # S3 keeps nothing of a cut upload below a part, and everything here is smaller.
        self.model.granule = 1 << 30
        self._postgres, self._s3 = postgres, s3
        self._databases = ExitStack()

    def fresh(self, folder: Path) -> tuple[Place, dict[str, Any]]:
        folder.mkdir()
        self._databases.close()
        url = self._databases.enter_context(self._postgres.migrated())
        bucket = f"test-{uuid4().hex}"
        place = s3_place(bucket, url, self._s3)
        settings = {
            "database_url": url,
            "blobs": f"s3://{bucket}",
            "s3_endpoint": self._s3.endpoint,
            "s3_access_key_id": self._s3.access_key_id,
            "s3_secret_access_key": self._s3.secret_access_key,
        }
        return place, settings

    def close(self) -> None:
        self._databases.close()


class World:
    """A running registry. `client`: the SDK; `raw`: stubs, for what the SDK does not let one do."""

    client: sync.RegistryClient

    def __init__(self, ground: Ground, folder: Path) -> None:
        self.place, self._settings = ground.fresh(folder)
        self._folder = folder
        self._running = ExitStack()
        self._start()

    def _start(self) -> None:
        registry = running_registry(self._folder, **self._settings, **_SETTINGS)
        target = self._running.enter_context(blocking(registry))
        self.client = self._running.enter_context(sync.RegistryClient(target, timeout=DEADLINE))
        self._raw = self._running.enter_context(blocking(_client(target)))

    def stop(self) -> None:
        """End it; what it keeps stays."""
        self._running.close()

    def restart(self) -> None:
        """End it and start it again on what it left."""
        self.stop()
        self._start()

    def close(self) -> None:
        """End it; nothing of it stays."""
        self.stop()
        shutil.rmtree(self._folder)

    def call(self, method: str, **fields: Any) -> Any:
        """A call of CatalogService, by its name."""
        return sync._wait(self._raw.call(method, **fields))

    def calls(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """Several at once, which saves most of the time."""

        async def together() -> list[Any]:
            return await asyncio.gather(*(self._raw.call(method, **fields) for method, fields in calls))

        return sync._wait(together())

    def upload(self, header: UploadRequest, offset: int, data: bytes, *, finish: bool) -> bool:
        """A stream of a header, a chunk where there is one, and perhaps a finish; whether the blob existed."""
        messages = [header]
        messages += [chunk(offset, data)] if data else []
        messages += [FINISH] if finish else []
        return sync._wait(self._raw.send(messages)).existed

    def watch(self, token: str, enough: Callable[[catalog_pb2.WatchResponse], bool]) -> list[catalog_pb2.WatchResponse]:
        """Events from behind the token up to the first that is enough."""
        return sync._wait(self._watch(token, enough))

    async def _watch(
        self, token: str, enough: Callable[[catalog_pb2.WatchResponse], bool]
    ) -> list[catalog_pb2.WatchResponse]:
        told = []
        async with asyncio.timeout(DEADLINE), aclosing(self._events(token)) as events:
            async for event in events:
                told.append(event)
                if enough(event):
                    break
        return told

    async def _events(self, token: str) -> AsyncIterator[catalog_pb2.WatchResponse]:
        call = self._raw.catalog.Watch(catalog_pb2.WatchRequest(resume_token=token))
        try:
            with translated():
                async for event in call:
                    yield event
        finally:
            call.cancel()


@asynccontextmanager
async def _client(target: str) -> AsyncIterator[Client]:
    async with Client(target) as client:
        yield client
