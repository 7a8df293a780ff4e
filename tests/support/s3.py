"""A real S3 server for the tests: one SeaweedFS per test run, one bucket per test.

Owns finding ports, starting the keeper and waiting until a PUT works. The server is shared by all
xdist workers and stopped when the last of them is gone, however it went (see s3_keeper).
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import random
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from adapter_registry.blobs.s3 import S3Store
from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.blobs.s3_parts import PART_BYTES
from adapter_registry.blobs.s3_places import locate
from lorry.errors import StorageUnavailable
from tests.support import s3_keeper
from tests.support.blobs import Place, flipped, read

# Below the ports that the system hands out, also with weed's gRPC offset added.
_PORTS = range(11_000, 22_000, len(s3_keeper.SERVERS))
_START_SECONDS = 60


def settings(port: int) -> S3Settings:
    """How to reach the test server on a port."""
    return S3Settings(
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id=s3_keeper.ACCESS_KEY,
        secret_access_key=s3_keeper.SECRET_KEY,
    )


def free_port() -> int:
    """The first of a run of ports that weed can have."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if all(_is_free(port + i + j) for i in range(len(s3_keeper.SERVERS)) for j in (0, s3_keeper.GRPC_OFFSET)):
            return port
    raise RuntimeError("no free run of ports for the S3 server")


def wait_until_usable(port: int) -> None:
    """Return once an object can be written and read."""
    store = S3Store("probe-bucket", "", settings(port))
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            return store.probe()
        except StorageUnavailable:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def put_object(store: S3Store, key: str, data: bytes) -> None:
    """Behind the store's back."""
    store._bucket.put(key, bytearray(data), base64.b64encode(hashlib.sha256(data).digest()).decode())


def s3_place(bucket: str, settings: S3Settings) -> Place:
    """A Place of the blob stores' suite in a bucket."""

    def open_store() -> S3Store:
        return S3Store(bucket, "some/prefix", settings)

    def damage(digest: str) -> None:
        store = open_store()
        located = locate(store._bucket, digest)
        assert located is not None
        put_object(store, located.key, flipped(read(store, digest)))

    return Place(open=open_store, granule=PART_BYTES, damage=damage)


class S3Server:
    """A server of a test's own, which it may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> S3Settings:
        return settings(self.port)

    def start(self) -> None:
        self._process = s3_keeper.start(self._folder, self.port)
        wait_until_usable(self.port)

    def kill(self) -> None:
        if self._process is not None:
            s3_keeper.stop(self._process, self.port)
            self._process = None


@pytest.fixture(scope="session")
def s3_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    """The run's shared server; it lives while anybody holds this fixture."""
    base = tmp_path_factory.getbasetemp()
    # Under xdist each worker has a folder of its own within the run's.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "s3"
    folder.mkdir(exist_ok=True)
    with (folder / "users").open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield settings(_shared_port(folder))


@pytest.fixture
def s3_bucket() -> str:
    """A bucket name that no other test has. The bucket is the store's to create."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def s3_server(tmp_path: Path) -> Iterator[S3Server]:
    """A server of the test's own, started."""
    server = S3Server(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _shared_port(folder: Path) -> int:
    """Port of the running server; the first to come starts it."""
    noted = folder / "server"
    with _exclusive(folder / "starting"):
        if not noted.exists():
            noted.write_text(str(_start_keeper(folder)))
        port = int(noted.read_text())
        wait_until_usable(port)
        return port


def _start_keeper(folder: Path) -> int:
    port = free_port()
    log = (os.POSIX_SPAWN_OPEN, 1, str(folder / "keeper"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # Spawned, not a Popen: nobody waits for it, it outlives this process where others still use it.
    os.posix_spawn(
        sys.executable,
        [sys.executable, s3_keeper.__file__, str(folder), str(port)],
        os.environ,
        file_actions=[log, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setsid=True,
    )
    return port


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
