"""Registries to be measured: on SQLite and files, and on PostgreSQL and S3, each with as many versions as asked.

Owns start and stop of the servers and of what is beside them. Does not know the cases.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from adapter_registry.blobs.s3_bucket import S3Settings
from benchmarks.registry_stock import stock
from benchmarks.running import say
from lorry import RegistryClient
from tests.support.postgres import PostgresServer, shared_server
from tests.support.registry import registry_process
from tests.support.s3 import S3Server

# What is kept in front of S3 serves bytes alone: the other cases would not tell it apart.
CACHED = "cached"
PLACES = {"files": "SQLite and files", "s3": "PostgreSQL and S3", CACHED: "PostgreSQL, and S3 behind a cache of files"}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. few, many: versions in the two catalogues that are compared."""

    blob_bytes: int = 256 << 20
    uploads: int = 16
    few: int = 1_000
    many: int = 100_000
    callers: int = 32
    calls: int = 100

    def settings(self) -> dict[str, int | str]:
        """As results mention it."""
        return asdict(self)


QUICK = Scale(blob_bytes=8 << 20, uploads=4, few=100, many=1_000, calls=10)


@dataclass(frozen=True, slots=True)
class House:
    """A running registry and a client of it. pid: of its process."""

    client: RegistryClient
    target: str
    pid: int


@dataclass
class World:
    """What cases work with; servers start when they are asked for. state: a folder for files."""

    scale: Scale
    state: Path
    _stack: AsyncExitStack
    _houses: dict[tuple[str, int], House] = field(default_factory=dict)
    _postgres: PostgresServer | None = None
    _s3: S3Settings | None = None

    async def house(self, place: str, versions: int = 0) -> House:
        """A registry that holds so many versions; the same one however often it is asked for."""
        if (place, versions) not in self._houses:
            self._houses[place, versions] = await self.open(place, versions)
        return self._houses[place, versions]

    async def open(self, place: str, versions: int) -> House:
        """One more."""
        say(f"  starting a registry on {PLACES[place]} with {versions:,} versions ...")
        folder = self.state / f"{place}-{uuid.uuid4().hex}"
        places = self._on_files(folder) if place == "files" else self._on_servers()
        if place == CACHED:
            places["CACHE_DIR"] = str(folder.absolute() / "cache")
        environment = {f"LORRY_REGISTRY_{name}": value for name, value in places.items()}
        running = self._stack.enter_context(registry_process(folder, **environment))
        client = await self._stack.enter_async_context(RegistryClient(running.target))
        if versions:
            await stock(client, places["DATABASE_URL"], versions, folder)
        return House(client, running.target, running.process.pid)

    def _on_files(self, folder: Path) -> dict[str, str]:
        return {"DATABASE_URL": f"sqlite:///{folder.absolute()}/catalog.db"}

    def _on_servers(self) -> dict[str, str]:
        if self._postgres is None:
            self._postgres = self._stack.enter_context(shared_server(self.state))
        s3 = self.s3()
        return {
            "DATABASE_URL": self._stack.enter_context(self._postgres.migrated()),
            "BLOBS": f"s3://benchmark-{uuid.uuid4().hex}/blobs",
            "S3_ENDPOINT": str(s3.endpoint),
            "S3_ACCESS_KEY_ID": str(s3.access_key_id),
            "S3_SECRET_ACCESS_KEY": str(s3.secret_access_key),
        }

    def s3(self) -> S3Settings:
        """The S3 server that the registry and its peer use."""
        if self._s3 is None:
            server = S3Server(self.state)
            self._stack.callback(server.kill)
            server.start()
            self._s3 = server.settings
        return self._s3


@asynccontextmanager
async def world(scale: Scale, state: Path) -> AsyncIterator[World]:
    """A world with nothing running in it yet; all ends with the block."""
    async with AsyncExitStack() as stack:
        yield World(scale, state, stack)
