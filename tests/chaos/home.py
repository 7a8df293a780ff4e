"""Where one registry keeps everything, through all its lives; and what must be true of it at any time.

Owns the port, which stays the same, and the process of the moment. Does not know who calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from adapter_registry.blobs.s3_bucket import S3Settings
from lorry import RegistryClient
from lorry.errors import LorryError
from lorry.v1 import admin_pb2
from lorry.v1.types_pb2 import Version
from tests.chaos.server import Started, end, start
from tests.support.upkeep import Place, file_place, parts_at, s3_place

# Below the ports that the kernel hands out to callers, one of whom could meet itself there while the
# registry is dead, and below those of the tests' S3 server.
_PORTS = range(5_000, 10_000)
_DEATH_SECONDS = 20.0
_CALL_SECONDS = 30.0


class Home:
    """A registry's storage and address. environment: names its storage to the process."""

    def __init__(self, folder: Path, environment: Mapping[str, str], place: Place) -> None:
        self.place = place
        self.target = f"127.0.0.1:{_free_port()}"
        self._log = folder / "log"
        self._armed = folder / "armed"
        self._settings = {
            "LORRY_REGISTRY_LISTEN": self.target,
            "LORRY_REGISTRY_DATA_DIR": str(folder),
            "LORRY_REGISTRY_GC_SECONDS": "0",
            **environment,
        }
        self._running: Started | None = None

    def start(self, *, mutant: str = "", **settings: str) -> None:
        """Begin a life, with crash points. settings: more of the environment."""
        chaos = {"LORRY_CHAOS_CRASH": str(self._armed), "LORRY_CHAOS_MUTANT": mutant}
        self._running = start(self._settings | chaos | settings, self._log)

    def start_if_dead(self) -> None:
        """Begin a life, where none goes on."""
        if self._running is None or self._running.process.exitcode is not None:
            self.start()

    def kill(self) -> None:
        """End it with SIGKILL, if it has not ended."""
        if self._running is not None:
            end(self._running.process)
            self._running = None

    def arm(self, point: str) -> None:
        """The process ends the next time it comes to this point."""
        self._armed.write_text(point)

    async def died(self) -> None:
        """Wait for the end of the process."""
        assert self._running is not None
        await asyncio.to_thread(self._running.process.join, _DEATH_SECONDS)
        assert self._running.process.exitcode == -signal.SIGKILL, "the registry did not die"

    def client(self) -> RegistryClient:
        return RegistryClient(self.target, timeout=_CALL_SECONDS)

    def rows_without_bytes(self) -> set[str]:
        """Digests of blobs that a live row or a version names, and that are not there or damaged."""
        with parts_at(self.place) as parts:
            live = [state.digest for state in parts.catalog.states("", 1 << 20) if not state.condemned]
            return set(parts.store.missing(live))


@contextmanager
def embedded(folder: Path) -> Iterator[Home]:
    """SQLite and files."""
    with _ended(Home(folder, {}, file_place(folder, f"sqlite:///{folder}/catalog.db"))) as home:
        yield home


@contextmanager
def served(folder: Path, url: str, bucket: str, s3: S3Settings) -> Iterator[Home]:
    """PostgreSQL and S3."""
    environment = {
        "LORRY_REGISTRY_DATABASE_URL": url,
        "LORRY_REGISTRY_BLOBS": f"s3://{bucket}",
        "LORRY_REGISTRY_S3_ENDPOINT": s3.endpoint or "",
        "LORRY_REGISTRY_S3_ACCESS_KEY_ID": s3.access_key_id or "",
        "LORRY_REGISTRY_S3_SECRET_ACCESS_KEY": s3.secret_access_key or "",
    }
    with _ended(Home(folder, environment, s3_place(bucket, url, s3))) as home:
        yield home


@contextmanager
def _ended(home: Home) -> Iterator[Home]:
    try:
        yield home
    finally:
        home.kill()


async def visible(client: RegistryClient) -> dict[str, Version]:
    """Every version that a reader can see, by `namespace/name@digest`."""
    seen = {}
    async for adapter in client.adapters():
        name = f"{adapter.namespace}/{adapter.name}"
        async for version in client.versions(name):
            seen[f"{name}@{version.digest}"] = version
    return seen


async def damage(client: RegistryClient, digest: str, size: int) -> str:
    """What is wrong with a blob's bytes as they come over the wire; empty where nothing is."""
    hasher, length = hashlib.sha256(), 0
    try:
        async for piece in client.read(digest):
            hasher.update(piece.data)
            length += len(piece.data)
    except LorryError as error:
        return f"{digest}: {error!r}"
    found = f"sha256:{hasher.hexdigest()}"
    return "" if (found, length) == (digest, size) else f"{digest}: {length} bytes of {found}, expected {size}"


async def damaged(client: RegistryClient, versions: Mapping[str, Version]) -> dict[str, str]:
    """The versions that are not whole, and why; every blob is read once."""
    sizes = {file.digest: file.size_bytes for version in versions.values() for file in version.manifest.files}
    wrong = {digest: why for digest, size in sizes.items() if (why := await damage(client, digest, size))}
    return {
        name: wrong[file.digest]
        for name, version in versions.items()
        for file in version.manifest.files
        if file.digest in wrong
    }


async def findings(client: RegistryClient) -> list[admin_pb2.FsckFinding]:
    """What a check of everything finds."""
    return [report.finding async for report in client.fsck() if report.HasField("finding")]


def _free_port() -> int:
    for port in random.sample(_PORTS, len(_PORTS)):
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port for a registry")
