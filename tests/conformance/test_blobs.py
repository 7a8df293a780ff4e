"""Bytes by digest: FindMissing, Upload, QueryUpload, Read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from lorry.errors import (
    BlobNotFound,
    BlobTooLarge,
    DigestMismatch,
    InvalidDigest,
    InvalidInput,
    InvalidName,
    LorryError,
    OffsetMismatch,
    OutOfRange,
    UploadIncomplete,
)
from lorry.format.digest import digest_of
from lorry.rpc.chunks import CHUNK_BYTES, MAX_CHUNK_BYTES
from lorry.v1 import blob_pb2
from tests.conformance.guest import NOWHERE, Guest, until
from tests.support.uploads import FINISH, chunk, chunks, header

SIZE = 3 * CHUNK_BYTES + 17
# What a registry keeps of a broken upload may be whole parts alone: S3 takes none below 5 MiB. Ours are of 8 MiB.
PART = 8 << 20


def whole(guest: Guest, data: bytes) -> list[blob_pb2.UploadRequest]:
    return [header(digest_of(data), len(data), guest.namespace), *chunks(data), FINISH]


async def missing(guest: Guest, *digests: str) -> list[str]:
    return list((await guest.call("FindMissing", digests=digests)).missing)


async def committed(guest: Guest, digest: str) -> tuple[int, bool]:
    answer = await guest.call("QueryUpload", digest=digest)
    return answer.committed_bytes, answer.complete


async def test_what_was_uploaded_is_read_back(guest: Guest) -> None:
    data = guest.data(SIZE)
    digest = digest_of(data)
    assert await missing(guest, NOWHERE, digest) == [NOWHERE, digest]
    assert await committed(guest, digest) == (0, False)
    answer = await guest.send(whole(guest, data))
    assert (answer.digest, answer.size_bytes, answer.existed) == (digest, SIZE, False)
    assert await missing(guest, NOWHERE, digest) == [NOWHERE]
    assert await committed(guest, digest) == (SIZE, True)
    pieces = await guest.stream("Read", digest=digest)
    assert b"".join(piece.data for piece in pieces) == data
    ends = [piece.offset + len(piece.data) for piece in pieces]
    assert [piece.offset for piece in pieces] == [0, *ends[:-1]]
    assert max(len(piece.data) for piece in pieces) <= CHUNK_BYTES


async def test_an_empty_blob_is_a_blob(guest: Guest) -> None:
    file = await guest.put(b"")
    assert await guest.stream("Read", digest=file.digest) == []
    assert await committed(guest, file.digest) == (0, True)


async def test_a_stored_blob_is_answered_at_once(guest: Guest) -> None:
    data = guest.data(SIZE)
    await guest.send(whole(guest, data))
    assert (await guest.send(whole(guest, data)[:1])).existed
    assert (await guest.send(whole(guest, data))).existed


async def test_a_part_is_read(guest: Guest) -> None:
    data = guest.data(SIZE)
    await guest.send(whole(guest, data))
    for offset, limit in ((0, 1), (5, 0), (CHUNK_BYTES - 1, 2), (SIZE, 0), (1, 10**12)):
        pieces = await guest.stream("Read", digest=digest_of(data), offset=offset, limit=limit)
        assert b"".join(piece.data for piece in pieces) == data[offset : offset + limit if limit else None]
        assert [piece.offset for piece in pieces[:1]] == [offset] * (offset < SIZE)
    for offset, limit in ((SIZE + 1, 0), (-1, 0), (0, -1)):
        with pytest.raises(OutOfRange):
            await guest.stream("Read", digest=digest_of(data), offset=offset, limit=limit)


async def test_many_read_one_blob_at_once(guest: Guest) -> None:
    data = guest.data(SIZE)
    await guest.send(whole(guest, data))
    answers = await asyncio.gather(*(guest.stream("Read", digest=digest_of(data), offset=at) for at in range(16)))
    assert all(b"".join(piece.data for piece in answer) == data[at:] for at, answer in enumerate(answers))


async def test_a_read_may_be_left_early(guest: Guest) -> None:
    data = guest.data(SIZE)
    await guest.send(whole(guest, data))
    call = guest.open("Read", digest=digest_of(data))
    assert (await call.read()).offset == 0
    call.cancel()
    assert await missing(guest, digest_of(data)) == []


async def test_a_blob_that_is_not_there_is_not_found(guest: Guest) -> None:
    with pytest.raises(BlobNotFound):
        await guest.stream("Read", digest=NOWHERE)
    with pytest.raises(InvalidDigest):
        await guest.stream("Read", digest="sha256:../../etc")


Messages = Callable[[Guest, str], list[blob_pb2.UploadRequest]]
DISORDER: list[tuple[str, Messages, type[LorryError]]] = [
    ("nothing", lambda _g, _d: [], InvalidInput),
    ("no header", lambda _g, _d: [FINISH], InvalidInput),
    ("a chunk first", lambda _g, _d: [chunk(0, b"x")], InvalidInput),
    ("an empty message", lambda _g, _d: [blob_pb2.UploadRequest()], InvalidInput),
    ("no digest", lambda g, _d: [header("sha256:0", 1, g.namespace)], InvalidDigest),
    ("no namespace", lambda _g, d: [header(d, 1, "Not A Name")], InvalidName),
    ("a negative size", lambda g, d: [header(d, -1, g.namespace)], InvalidInput),
    ("a petabyte", lambda g, d: [header(d, 1 << 50, g.namespace)], BlobTooLarge),
    ("two headers", lambda g, d: [header(d, 9, g.namespace)] * 2, InvalidInput),
    ("an empty chunk", lambda g, d: [header(d, 9, g.namespace), blob_pb2.UploadRequest()], InvalidInput),
    ("a gap", lambda g, d: [header(d, 9, g.namespace), chunk(1, b"x")], OffsetMismatch),
    ("more than was said", lambda g, d: [header(d, 9, g.namespace), chunk(0, b"x" * 10)], BlobTooLarge),
    (
        "a chunk too large",
        lambda g, d: [header(d, SIZE, g.namespace), chunk(0, b"x" * (MAX_CHUNK_BYTES + 1))],
        BlobTooLarge,
    ),
    ("too little", lambda g, d: [header(d, 9, g.namespace), chunk(0, b"x" * 8), FINISH], UploadIncomplete),
    ("no finish", lambda g, d: [header(d, 9, g.namespace), chunk(0, b"x" * 9)], UploadIncomplete),
    ("other bytes", lambda g, d: [header(d, 9, g.namespace), chunk(0, b"x" * 9), FINISH], DigestMismatch),
]


async def test_a_stream_out_of_order_is_refused_and_nothing_becomes_visible(
    guest: Guest, subtests: pytest.Subtests
) -> None:
    for index, (what, messages, error) in enumerate(DISORDER):
        digest = digest_of(guest.data(100 + index))
        with subtests.test(what):
            with pytest.raises(error) as caught:
                await guest.send(messages(guest, digest))
            assert type(caught.value) is error
            assert await missing(guest, digest) == [digest]


async def test_a_chunk_of_the_largest_size_is_taken(guest: Guest) -> None:
    data = guest.data(SIZE)
    opening = header(digest_of(data), SIZE, guest.namespace)
    await guest.send([opening, *chunks(data, size=MAX_CHUNK_BYTES), FINISH])
    assert await missing(guest, digest_of(data)) == []


async def test_a_stream_that_breaks_keeps_what_came_and_the_next_goes_on(guest: Guest) -> None:
    data = guest.data(PART + SIZE)
    digest = digest_of(data)
    opening = header(digest, len(data), guest.namespace)
    broken = guest.upload()
    for message in [opening, *chunks(data)[: PART // CHUNK_BYTES + 1]]:
        await broken.write(message)

    async def a_part_came() -> bool:
        return (await committed(guest, digest))[0] >= PART

    await until(a_part_came)
    broken.cancel()

    async def goes_on() -> bool:
        kept, complete = await committed(guest, digest)
        assert PART <= kept < len(data)
        assert not complete
        try:
            return bool((await guest.send([opening, *chunks(data, kept), FINISH])).digest)
        except OffsetMismatch:  # the broken call's own end still holds the upload: there is a fresh one
            return False

    await until(goes_on)
    assert await committed(guest, digest) == (len(data), True)
    assert b"".join([piece.data for piece in await guest.stream("Read", digest=digest)]) == data


async def test_the_offset_to_go_on_from_is_told(guest: Guest) -> None:
    data = guest.data(PART + SIZE)
    with pytest.raises(UploadIncomplete):
        await guest.send([m for m in whole(guest, data) if m != FINISH][:-1])
    kept, _ = await committed(guest, digest_of(data))
    with pytest.raises(OffsetMismatch) as caught:
        await guest.send(whole(guest, data))
    assert caught.value.metadata["committed_bytes"] == str(kept)
    assert kept >= PART


async def test_two_uploads_of_one_blob_at_once_both_succeed(guest: Guest) -> None:
    data = guest.data(SIZE)
    answers = await asyncio.gather(*(guest.send(whole(guest, data)) for _ in range(4)))
    assert {answer.digest for answer in answers} == {digest_of(data)}


async def test_questions_with_broken_digests_are_refused(guest: Guest) -> None:
    with pytest.raises(InvalidDigest, match="expected sha256"):
        await missing(guest, NOWHERE, "x")
    with pytest.raises(InvalidInput, match="at most 1000"):
        await missing(guest, *[NOWHERE] * 1_001)
    with pytest.raises(InvalidDigest):
        await guest.call("QueryUpload", digest="x")
    with pytest.raises(InvalidName):
        await guest.call("QueryUpload", digest=NOWHERE, namespace="Not A Name")
