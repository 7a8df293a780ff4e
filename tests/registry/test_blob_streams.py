from __future__ import annotations

import asyncio
import hashlib

import psutil
import pytest

from lorry.errors import (
    BlobNotFound,
    BlobTooLarge,
    DigestMismatch,
    InvalidDigest,
    InvalidInput,
    LorryError,
    OffsetMismatch,
    OutOfRange,
    UploadIncomplete,
)
from lorry.format.digest import digest_of
from lorry.rpc.calls import translated
from lorry.rpc.chunks import CHUNK_BYTES, MAX_CHUNK_BYTES
from lorry.v1 import blob_pb2
from tests.support.registry import DEADLINE, FINISH, Client, chunk, chunks, header, until

DATA = hashlib.shake_256(b"blob").digest(3 * CHUNK_BYTES + 17)
DIGEST = digest_of(DATA)
WHOLE = [header(DIGEST, len(DATA)), *chunks(DATA), FINISH]


async def committed(client: Client, digest: str = DIGEST) -> tuple[int, bool]:
    answer = await client.blobs.QueryUpload(blob_pb2.QueryUploadRequest(digest=digest), timeout=DEADLINE)
    return answer.committed_bytes, answer.complete


async def came(client: Client, count: int) -> bool:
    return (await committed(client))[0] >= count


async def missing(client: Client, *digests: str) -> list[str]:
    with translated():
        answer = await client.blobs.FindMissing(blob_pb2.FindMissingRequest(digests=digests), timeout=DEADLINE)
    return list(answer.missing)


async def test_what_was_uploaded_is_read_back(client: Client) -> None:
    assert await missing(client, DIGEST) == [DIGEST]
    answer = await client.send(WHOLE)
    assert (answer.digest, answer.size_bytes, answer.existed) == (DIGEST, len(DATA), False)
    assert await missing(client, DIGEST) == []
    pieces = await client.get(DIGEST)
    assert b"".join(piece.data for piece in pieces) == DATA
    assert [piece.offset for piece in pieces] == [0, CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES]


async def test_an_empty_blob_is_a_blob(client: Client) -> None:
    file = await client.put(b"")
    assert await client.get(file.digest) == []
    assert await committed(client, file.digest) == (0, True)


async def test_a_stored_blob_is_answered_at_once(client: Client) -> None:
    await client.send(WHOLE)
    answer = await client.send([header(DIGEST, len(DATA))])
    assert answer.existed
    assert (await client.send(WHOLE)).existed


@pytest.mark.parametrize(("offset", "limit"), [(0, 1), (5, 0), (CHUNK_BYTES - 1, 2), (len(DATA), 0), (1, 10**12)])
async def test_a_part_is_read(client: Client, offset: int, limit: int) -> None:
    await client.send(WHOLE)
    pieces = await client.get(DIGEST, offset, limit)
    assert b"".join(piece.data for piece in pieces) == DATA[offset : offset + limit if limit else None]
    assert [piece.offset for piece in pieces[:1]] == [offset] * (offset < len(DATA))


@pytest.mark.parametrize(("offset", "limit"), [(len(DATA) + 1, 0), (-1, 0), (0, -1)])
async def test_a_part_outside_of_the_blob_is_out_of_range(client: Client, offset: int, limit: int) -> None:
    await client.send(WHOLE)
    with pytest.raises(OutOfRange):
        await client.get(DIGEST, offset, limit)


async def test_a_blob_that_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(BlobNotFound):
        await client.get(DIGEST)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], InvalidInput),
        ([FINISH], InvalidInput),
        ([chunk(0, b"x")], InvalidInput),
        ([blob_pb2.UploadRequest()], InvalidInput),
        ([header("sha256:0", 1)], InvalidDigest),
        ([header(DIGEST, -1)], InvalidInput),
        ([header(DIGEST, 1 << 50)], BlobTooLarge),
        ([header(DIGEST, 9), header(DIGEST, 9)], InvalidInput),
        ([header(DIGEST, 9), blob_pb2.UploadRequest()], InvalidInput),
        ([header(DIGEST, 9), chunk(1, b"x")], OffsetMismatch),
        ([header(DIGEST, 9), chunk(0, b"x" * 10)], BlobTooLarge),
        ([header(DIGEST, len(DATA)), chunk(0, DATA[: MAX_CHUNK_BYTES + 1])], BlobTooLarge),
        ([header(DIGEST, 9), chunk(0, b"x" * 8), FINISH], UploadIncomplete),
        ([header(DIGEST, 9), chunk(0, b"x" * 9)], UploadIncomplete),
        ([header(DIGEST, 9), chunk(0, b"x" * 9), FINISH], DigestMismatch),
    ],
)
async def test_a_stream_out_of_order_is_refused_and_nothing_becomes_visible(
    client: Client, messages: list[blob_pb2.UploadRequest], error: type[LorryError]
) -> None:
    with pytest.raises(error) as caught:
        await client.send(messages)
    assert type(caught.value) is error
    assert await missing(client, DIGEST) == [DIGEST]


async def test_a_chunk_of_the_largest_size_is_taken(client: Client) -> None:
    await client.send([header(DIGEST, len(DATA)), *chunks(DATA, size=MAX_CHUNK_BYTES), FINISH])
    assert await missing(client, DIGEST) == []


async def test_a_stream_that_breaks_keeps_what_came_and_the_next_goes_on(client: Client) -> None:
    call = client.blobs.Upload(timeout=DEADLINE)
    for message in WHOLE[:3]:
        await call.write(message)
    await until(lambda: came(client, 2 * CHUNK_BYTES))
    call.cancel()
    assert await committed(client) == (2 * CHUNK_BYTES, False)
    rest = [header(DIGEST, len(DATA)), *chunks(DATA, 2 * CHUNK_BYTES), FINISH]

    async def goes_on() -> bool:
        try:
            return bool((await client.send(rest)).digest)
        except OffsetMismatch:  # the broken call's own end still holds the upload: there is a fresh one
            return False

    await until(goes_on)
    assert await committed(client) == (len(DATA), True)


async def test_the_offset_to_go_on_from_is_told(client: Client) -> None:
    with pytest.raises(UploadIncomplete):
        await client.send(WHOLE[:2])
    with pytest.raises(OffsetMismatch) as caught:
        await client.send(WHOLE)
    assert caught.value.metadata["committed_bytes"] == str(CHUNK_BYTES)


async def test_two_uploads_of_one_blob_at_once_both_succeed(client: Client) -> None:
    answers = await asyncio.gather(*(client.send(WHOLE) for _ in range(4)))
    assert {answer.digest for answer in answers} == {DIGEST}


async def test_reads_that_are_left_early_leave_no_file_open(client: Client) -> None:
    await client.send(WHOLE)
    before = psutil.Process().num_fds()
    for _ in range(20):
        call = client.blobs.Read(blob_pb2.ReadRequest(digest=DIGEST), timeout=DEADLINE)
        await call.read()
        call.cancel()

    async def all_closed() -> bool:
        return psutil.Process().num_fds() <= before

    await until(all_closed)


async def test_questions_with_broken_digests_are_refused(client: Client) -> None:
    with pytest.raises(InvalidDigest, match="expected sha256"):
        await missing(client, DIGEST, "x")
    with pytest.raises(InvalidInput, match="at most 1000"):
        await missing(client, *[DIGEST] * 1_001)
    with pytest.raises(InvalidDigest):
        await client.get("sha256:../../etc")
