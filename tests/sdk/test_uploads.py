"""Uploads beside another of the same blob, and to a store that is slow to make them durable."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapter_registry.blobs.file_upload import FileUpload
from lorry import RegistryClient, blobs, retry
from lorry.errors import Unavailable
from lorry.format.digest import digest_of
from lorry.retry import Patience
from lorry.rpc.chunks import CHUNK_BYTES
from tests.support.registry import DEADLINE, Client, running_registry, until
from tests.support.uploads import chunks, header

DATA = b"".join(bytes([number]) * CHUNK_BYTES for number in range(5))
DIGEST = digest_of(DATA)


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[str]:
    async with running_registry(tmp_path / "registry") as target:
        yield target


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(DATA)
    return path


async def test_an_upload_does_not_wait_for_one_of_the_same_blob_that_hangs(target: str, file: Path) -> None:
    async with Client(target) as raw, RegistryClient(target) as client:
        hanging = raw.blobs.Upload(timeout=DEADLINE)
        for message in [header(DIGEST, len(DATA)), *chunks(DATA)[:3]]:
            await hanging.write(message)

        async def came() -> bool:
            return (await client.query_upload(DIGEST)).committed_bytes == 3 * CHUNK_BYTES

        await until(came)
        await client.upload(file, DIGEST)
        assert b"".join([piece.data for piece in await raw.get(DIGEST)]) == DATA
        hanging.cancel()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[FileUpload]:
    """A disk that takes a second to make an upload durable; those that it was asked for."""
    finish, begun = FileUpload.finish, []

    def slowly(upload: FileUpload) -> None:
        begun.append(upload)
        time.sleep(1)
        finish(upload)

    monkeypatch.setattr(FileUpload, "finish", slowly)
    monkeypatch.setattr(blobs, "SILENCE_SECONDS", 0.3)
    return begun


async def test_the_answer_is_waited_for_as_long_as_so_many_bytes_may_take(
    target: str, file: Path, slow: list[FileUpload], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_BYTES_PER_SECOND", len(DATA) / DEADLINE)
    async with RegistryClient(target) as client:
        await client.upload(file, DIGEST)
    assert len(slow) == 1


async def test_an_upload_whose_sender_left_before_the_answer_is_complete(
    target: str, file: Path, slow: list[FileUpload], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_FAILURES", 1)
    async with RegistryClient(target) as client:
        with pytest.raises(Unavailable, match="silent"):
            await client.upload(file, DIGEST)

        async def complete() -> bool:
            return (await client.query_upload(DIGEST)).complete

        await until(complete)
        await client.upload(file, DIGEST)
        assert await client.find_missing([DIGEST]) == []
    assert len(slow) == 1


async def test_what_falls_back_and_comes_as_far_again_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "MAX_FAILURES", 3)
    positions, tried = itertools.cycle([0, 5]), 0

    async def transfer() -> None:
        nonlocal tried
        async for attempt in Patience(lambda: next(positions)).retrying():
            with attempt:
                tried += 1
                assert tried < 10
                raise Unavailable("cut")

    with pytest.raises(Unavailable):
        await transfer()
    assert tried == 3
