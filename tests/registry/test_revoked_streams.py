"""A stream that was begun goes on no longer than the rights that it was begun with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from adapter_registry.rpc import blobs
from lorry.errors import BlobNotFound, Unauthenticated
from lorry.format.digest import digest_of
from lorry.rpc.calls import translated
from lorry.v1 import blob_pb2
from lorry.v1.blob_pb2_grpc import BlobServiceStub
from tests.support.certificates import Authority
from tests.support.registry import until
from tests.support.tenants import OPERATOR, OURS, World, guarded_registry
from tests.support.uploads import FINISH, chunks, header

# More than what may be on the way of a stream that nobody reads.
LARGE = bytes(64 << 20)
SMALL = b"sent before, finished after"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with guarded_registry(tmp_path / "registry", Authority(tmp_path)) as world:
        yield world


async def revoke(world: World) -> None:
    """And wait until nobody remembers otherwise."""
    stub = BlobServiceStub(world.channel(OURS))

    async def is_refused() -> bool:
        try:
            with translated():
                await stub.FindMissing(blob_pb2.FindMissingRequest(digests=[digest_of(b"")], namespace="ours"))
        except Unauthenticated:
            return True
        return False

    async with world.client(OPERATOR) as operator:
        await operator.revoke_principal(OURS)
    await until(is_refused)


async def test_an_upload_is_kept_by_who_may_keep_it_at_its_end(world: World) -> None:
    digest = digest_of(SMALL)
    upload = BlobServiceStub(world.channel(OURS)).Upload()
    for message in (header(digest, len(SMALL), "ours"), *chunks(SMALL)):
        await upload.write(message)
    await revoke(world)

    async def finish() -> None:
        with translated():
            await upload.write(FINISH)
            await upload

    with pytest.raises(Unauthenticated):
        await finish()
    async with world.client(OPERATOR) as operator:
        assert await operator.find_missing([digest], namespace="ours") == [digest]
        with pytest.raises(BlobNotFound):
            [piece async for piece in operator.read(digest)]


async def test_a_blob_is_read_by_who_may_read_it_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_JUDGED_SECONDS", 0.0)
    stub = BlobServiceStub(world.channel(OURS))

    async def messages() -> AsyncIterator[blob_pb2.UploadRequest]:
        for message in (header(digest_of(LARGE), len(LARGE), "ours"), *chunks(LARGE), FINISH):
            yield message

    await stub.Upload(messages())
    stream = stub.Read(blob_pb2.ReadRequest(digest=digest_of(LARGE)))
    await stream.read()
    await revoke(world)

    async def read_on() -> None:
        with translated():
            while await stream.read() is not grpc.aio.EOF:
                pass

    with pytest.raises(Unauthenticated):
        await read_on()
