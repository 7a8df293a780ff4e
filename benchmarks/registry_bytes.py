"""Bytes in and out of the registry: beside a bare TCP connection, and beside boto3 at the same S3 server.

Owns these cases and the memory that many uploads take. TCP shows what loopback allows without hashing,
storing or checking anything; boto3 what the S3 server gives to whoever needs no registry.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import psutil

from benchmarks.measuring import Claim
from benchmarks.registry_tcp import over_tcp
from benchmarks.registry_world import World
from lorry.format.digest import digest_of_file

_CHUNK = 1 << 20
_MB = 1e6
# A look every so often; the uploads take seconds.
_LOOK_SECONDS = 0.01
_BUCKET = "benchmark-boto3"
PEERS = {"files": "TCP", "s3": "boto3", "cached": "boto3"}


class Upload:
    """MB/s of a new blob with the SDK: read, sent, hashed, durable and visible."""

    def __init__(self, place: str) -> None:
        self.claim = Claim(f"upload-{place}", f"upload of a blob, {place}", "MB/s", PEERS[place], higher=True)
        self._place = place

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        await self.ours(world, -1)
        await self.peer(world, -1)

    async def ours(self, world: World, turn: int) -> float:
        """See Measurable."""
        client = (await world.house(self._place)).client
        path = _blob(world, f"upload-{turn}")
        digest = digest_of_file(path)
        began = time.perf_counter()
        await client.upload(path, digest)
        return _rate(world, time.perf_counter() - began)

    async def peer(self, world: World, turn: int) -> float:
        """See Measurable."""
        path = _blob(world, f"upload-{turn}")
        if self._place == "files":
            return _rate(world, await asyncio.to_thread(_copied, path))
        return _rate(world, await asyncio.to_thread(_put, world, path))


class Read:
    """MB/s of a blob that is read with the SDK, into memory; verified by the registry on its way out."""

    name, title = "read", "read of a blob into memory"

    def __init__(self, place: str) -> None:
        self.claim = Claim(f"{self.name}-{place}", f"{self.title}, {place}", "MB/s", PEERS[place], higher=True)
        self._place = place
        self._digest = ""

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        path = _blob(world, "read")
        self._digest = digest_of_file(path)
        await (await world.house(self._place)).client.upload(path, self._digest)
        if self._place != "files":
            _put(world, path)
        await self.ours(world, -1)
        await self.peer(world, -1)

    async def ours(self, world: World, turn: int) -> float:
        """See Measurable."""
        client = (await world.house(self._place)).client
        left = world.scale.blob_bytes
        began = time.perf_counter()
        left -= await self._take(world, client, turn)
        _complete(left)
        return _rate(world, time.perf_counter() - began)

    async def _take(self, world: World, client: Any, turn: int) -> int:  # noqa: ARG002 - Download's are used
        return sum([len(piece.data) async for piece in client.read(self._digest)])

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        path = _blob(world, "read")
        if self._place == "files":
            return _rate(world, await asyncio.to_thread(over_tcp, path))
        return _rate(world, await asyncio.to_thread(_get, world, path))


class Download(Read):
    """MB/s of a download with the SDK: verified again by the client, written, synced, renamed."""

    name, title = "download", "download of a blob into a file"

    async def _take(self, world: World, client: Any, turn: int) -> int:
        into = world.state / f"download-{turn}"
        await client.download(self._digest, world.scale.blob_bytes, into)
        size = into.stat().st_size
        into.unlink()
        return size

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - likewise
        """See Measurable."""
        fetch = _copied if self._place == "files" else partial(_fetch, world)
        return _rate(world, await asyncio.to_thread(fetch, _blob(world, "read")))


class Memory:
    """MB that the registry's process holds at most above its idle state, while many upload at once."""

    def __init__(self, place: str) -> None:
        self.claim = Claim(
            f"memory-{place}", f"registry's memory, uploads at once, {place}", "MB", "sent", higher=False
        )
        self._place = place

    async def prepare(self, world: World) -> None:
        """See Measurable."""
        await world.house(self._place)

    async def ours(self, world: World, turn: int) -> float:
        """See Measurable."""
        house = await world.open(self._place, 0)
        # Idle after its first upload, so that what is loaded once is not counted.
        path = _blob(world, "read")
        await house.client.upload(path, digest_of_file(path))
        process = psutil.Process(house.pid)
        idle = process.memory_info().rss
        jobs = [self._one(house.client, world, f"memory-{turn}-{index}") for index in range(world.scale.uploads)]
        uploading = asyncio.gather(*jobs)
        peak = idle
        while not uploading.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(_LOOK_SECONDS)
        await uploading
        return (peak - idle) / _MB

    async def _one(self, client: Any, world: World, name: str) -> None:
        path = _blob(world, name)
        await client.upload(path, await asyncio.to_thread(digest_of_file, path))
        path.unlink()

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - what is sent is always the same
        """See Measurable."""
        return world.scale.uploads * world.scale.blob_bytes / _MB


def _s3(world: World) -> Any:
    s3 = world.s3()
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3.access_key_id,
        aws_secret_access_key=s3.secret_access_key,
    )
    if _BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=_BUCKET)
    return client


def _put(world: World, path: Path) -> float:
    client = _s3(world)
    began = time.perf_counter()
    client.upload_file(str(path), _BUCKET, path.name)
    return time.perf_counter() - began


def _get(world: World, path: Path) -> float:
    client = _s3(world)
    began = time.perf_counter()
    body = client.get_object(Bucket=_BUCKET, Key=path.name)["Body"]
    left = path.stat().st_size
    while data := body.read(_CHUNK):
        left -= len(data)
    _complete(left)
    return time.perf_counter() - began


def _fetch(world: World, path: Path) -> float:
    client, into = _s3(world), path.with_suffix(".copy")
    began = time.perf_counter()
    client.download_file(_BUCKET, path.name, str(into))
    with into.open("rb+") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    into.unlink()
    return seconds


def _copied(path: Path) -> float:
    into = path.with_suffix(".copy")
    seconds = over_tcp(path, into)
    into.unlink()
    return seconds


def _blob(world: World, name: str) -> Path:
    """A file of random bytes of its own."""
    path = world.state / name
    if not path.exists():
        path.write_bytes(os.urandom(world.scale.blob_bytes))
    return path


def _complete(left: int) -> None:
    if left:
        raise RuntimeError(f"expected all bytes, {left} of them never came")


def _rate(world: World, seconds: float) -> float:
    return world.scale.blob_bytes / _MB / seconds
