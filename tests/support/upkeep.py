"""A registry's parts without its server: catalogue, blob store, collector and checker on both kinds of storage.

Owns how a test breaks them: stores and catalogues that fail or wait at a chosen call. Does not know
what a test expects.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from adapter_registry.blobs.filesystem import FileStore
from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.blobs.s3 import S3Store
from adapter_registry.blobs.s3_bucket import Bucket, S3Settings
from adapter_registry.blobs.s3_places import locate
from adapter_registry.domain.records import NewVersion
from adapter_registry.service.fsck import Checker
from adapter_registry.service.garbage import GarbageCollector, Keeping
from adapter_registry.service.pool import Pools
from adapter_registry.service.stored import Piece, StoredBlobs
from adapter_registry.store.catalog import SqlCatalog, open_catalog
from adapter_registry.store.migrate import upgrade
from lorry.errors import StorageUnavailable
from lorry.format.digest import digest_of
from lorry.format.manifest import ManifestFile
from tests.suites.catalog_values import a_version

AT_ONCE = timedelta()
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Place:
    """Where a registry keeps everything. spoil: flips a stored blob's last byte behind the store's back."""

    url: str
    open_store: Callable[[], BlobStore]
    spoil: Callable[[str], None]


def file_place(folder: Path, url: str) -> Place:
    """SQLite and files."""

    def spoil(digest: str) -> None:
        (path,) = folder.glob(f"blobs/*/*/{digest.removeprefix('sha256:')}")
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    return Place(url, lambda: FileStore(folder), spoil)


def s3_place(bucket: str, url: str, settings: S3Settings) -> Place:
    """PostgreSQL and S3."""
    client = boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key,
    )

    def spoil(digest: str) -> None:
        located = locate(Bucket(bucket, "", settings), digest)
        assert located is not None
        key = located.key
        data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        client.put_object(Bucket=bucket, Key=key, Body=data[:-1] + bytes([data[-1] ^ 1]))

    return Place(url, lambda: S3Store(bucket, "", settings), spoil)


class Parts:
    """What one replica has. Each test's stores are small, so pools are too."""

    def __init__(self, place: Place, *, settling: timedelta = AT_ONCE) -> None:
        self.place = place
        self.catalog: SqlCatalog = open_catalog(place.url)
        self.store = place.open_store()
        self.pools = Pools.of(queries=4, writes=2, transfers=4)
        self.keeping = Keeping(unnamed=DAY, events=30 * DAY, settling=settling)

    def close(self) -> None:
        self.pools.close()
        self.catalog.close()

    def collector(self, *, store: Any = None, catalog: Any = None) -> GarbageCollector:
        """A collector, perhaps on a store or a catalogue that misbehaves."""
        return GarbageCollector(catalog or self.catalog, store or self.store, self.pools, self.keeping)

    def checker(self, store: Any = None) -> Checker:
        """A checker, perhaps on a store that misbehaves."""
        return Checker(self.catalog, store or self.store, self.pools)

    def blobs(self, ledger: Any = None) -> StoredBlobs:
        return StoredBlobs(self.store, ledger or self.catalog, self.pools)

    async def send(self, data: bytes, *, ledger: Any = None) -> str:
        """Store a blob as an upload does."""

        async def pieces() -> AsyncIterator[Piece]:
            yield Piece(0, memoryview(data))

        await self.blobs(ledger).receive(digest_of(data), len(data), "default", pieces())
        return digest_of(data)

    async def publish(self, name: str, data: bytes) -> str:
        """Publish a version whose only file is this, and answer the blob's digest."""
        digest = await self.send(data)
        self.catalog.create_version(naming(name, data))
        return digest

    async def read(self, digest: str) -> bytes:
        return b"".join([bytes(piece.data) async for piece in self.blobs().read(digest, 0, 0)])


def naming(name: str, data: bytes) -> NewVersion:
    """A version whose only file is this."""
    new = a_version(name)
    file = ManifestFile("adapter_model.safetensors", digest_of(data), len(data))
    return replace(new, manifest=replace(new.manifest, files=(file,)))


class Failing:
    """Another object, one method of which raises StorageUnavailable: instead of its work, or behind it."""

    def __init__(self, inner: Any, method: str, *, behind: bool) -> None:
        self._inner, self._method, self._behind = inner, method, behind

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        return self._fail(method) if name == self._method else method

    def _fail(self, method: Callable[..., object]) -> Callable[..., object]:
        def failing(*args: object, **kwargs: object) -> object:
            if self._behind:
                method(*args, **kwargs)
            raise StorageUnavailable("the test wants it so")

        return failing


class Waiting:
    """Another object, one method of which waits to be let go on: before its work."""

    def __init__(self, inner: Any, method: str) -> None:
        self._inner, self._method = inner, method
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        return self._wait(method) if name == self._method else method

    def _wait(self, method: Callable[..., object]) -> Callable[..., object]:
        def waiting(*args: object, **kwargs: object) -> object:
            self.reached.set()
            self.go_on.wait()
            return method(*args, **kwargs)

        return waiting


@contextmanager
def parts_at(place: Place, **options: Any) -> Iterator[Parts]:
    """The parts, closed in the end."""
    parts = Parts(place, **options)
    try:
        yield parts
    finally:
        parts.close()


@pytest.fixture(params=["embedded", pytest.param("served", marks=[pytest.mark.postgres, pytest.mark.s3])])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """SQLite and files, then PostgreSQL and S3; each of the test's own, empty."""
    if request.param == "embedded":
        url = f"sqlite:///{tmp_path}/catalog.db"
        upgrade(url)
        return file_place(tmp_path, url)
    url, bucket = request.getfixturevalue("postgres_url"), request.getfixturevalue("s3_bucket")
    return s3_place(bucket, url, request.getfixturevalue("s3_settings"))
