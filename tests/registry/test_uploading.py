"""Uploads on their way, on both kinds of storage: what they count for a quota, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from adapter_registry.blobs.protocol import BLOCK_BYTES, MAX_BLOB_BYTES
from adapter_registry.domain.acting import Actor, Permission, Rights, acting
from adapter_registry.domain.namespaces import NamespaceChange
from adapter_registry.service import uploading
from adapter_registry.service.stored import Piece
from lorry.errors import (
    BlobTooLarge,
    DigestMismatch,
    InvalidInput,
    LorryError,
    QuotaExceeded,
    StorageUnavailable,
    TooManyUploads,
)
from lorry.format.digest import digest_of
from tests.support.registry import until
from tests.support.sending import DATA, DIGEST, pieces, send, used
from tests.support.upkeep import AT_ONCE, Failing, Parts, Place, Waiting, parts_at


@pytest.fixture
def parts(place: Place) -> Iterator[Parts]:
    with parts_at(place) as parts:
        limit(parts, len(DATA))
        yield parts


def limit(parts: Parts, max_bytes: int) -> None:
    parts.catalog.update_namespace(NamespaceChange("ours", max_bytes=max_bytes))


def coming(parts: Parts) -> int:
    return parts.catalog.get_namespace("ours").uploading_bytes


class Slow:
    """An upload that waits between its pieces and its finish."""

    def __init__(self) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def pieces(self) -> AsyncIterator[Piece]:
        async for piece in pieces(DATA):
            yield piece
        self.reached.set()
        await self.go_on.wait()


async def test_quota_is_checked_before_a_byte_comes(parts: Parts) -> None:
    limit(parts, len(DATA) - 1)

    async def never() -> AsyncIterator[Piece]:
        pytest.fail("a piece was asked for")
        yield

    with pytest.raises(QuotaExceeded) as refused:
        await parts.blobs().receive(DIGEST, len(DATA), "ours", never())
    assert refused.value.metadata == {"limit": str(len(DATA) - 1), "used": "0", "asked": str(len(DATA))}
    assert await send(parts, "ours", b"small") is False


async def test_what_is_on_its_way_counts(parts: Parts) -> None:
    slow = Slow()
    sending = asyncio.create_task(parts.blobs().receive(DIGEST, len(DATA), "ours", slow.pieces()))
    await slow.reached.wait()
    assert coming(parts) == len(DATA)
    with pytest.raises(QuotaExceeded) as refused:
        await send(parts, "ours", b"small")
    assert refused.value.metadata["used"] == str(len(DATA))
    slow.go_on.set()
    await sending
    assert (used(parts, "ours"), coming(parts)) == (len(DATA), 0)


async def test_two_of_one_digest_count_twice(parts: Parts) -> None:
    limit(parts, 2 * len(DATA))
    blobs, slow = parts.blobs(), Slow()
    sending = [asyncio.create_task(blobs.receive(DIGEST, len(DATA), "ours", slow.pieces())) for _ in range(2)]
    await slow.reached.wait()

    async def both() -> bool:
        return coming(parts) == 2 * len(DATA)

    await until(both)
    slow.go_on.set()
    await asyncio.gather(*sending)
    assert (used(parts, "ours"), coming(parts)) == (len(DATA), 0)


async def test_what_broke_off_counts_as_much_as_is_kept_and_is_gone_on_from(parts: Parts) -> None:
    with pytest.raises(ConnectionError):
        await send(parts, "ours", broken_at=BLOCK_BYTES + 5)
    kept = (await parts.blobs().progress(DIGEST, "ours")).committed
    assert coming(parts) == kept
    if kept:
        with pytest.raises(QuotaExceeded):
            await send(parts, "ours", bytes(len(DATA) - kept + 1))

    async def rest() -> AsyncIterator[Piece]:
        yield Piece(kept, memoryview(DATA)[kept:])

    await parts.blobs().receive(DIGEST, len(DATA), "ours", rest())
    assert (used(parts, "ours"), coming(parts)) == (len(DATA), 0)


async def test_what_is_kept_counts_whatever_becomes_of_going_on(parts: Parts) -> None:
    with pytest.raises(ConnectionError):
        await send(parts, "ours", broken_at=BLOCK_BYTES + 5)
    kept = coming(parts)
    broken = parts.blobs()
    broken._store = Failing(parts.store, "upload", behind=False)
    with pytest.raises(StorageUnavailable):
        await broken.receive(DIGEST, len(DATA), "ours", pieces(DATA))
    assert coming(parts) == kept
    limit(parts, len(DATA) - 1)
    with pytest.raises(QuotaExceeded):
        await send(parts, "ours")
    assert coming(parts) == kept


async def test_a_reservation_that_nobody_waited_for_does_not_stay(parts: Parts) -> None:
    ledger = Waiting(parts.catalog, "reserve")
    sending = asyncio.create_task(parts.blobs(ledger).receive(DIGEST, len(DATA), "ours", pieces(DATA)))
    await asyncio.to_thread(ledger.reached.wait)
    sending.cancel()
    ledger.go_on.set()
    await asyncio.wait([sending])
    assert coming(parts) == 0


async def test_of_several_that_broke_off_and_one_that_went_on_only_what_is_kept_counts(parts: Parts) -> None:
    limit(parts, 3 * len(DATA))
    blobs, slow = parts.blobs(), Slow()
    sending = [asyncio.create_task(blobs.receive(DIGEST, len(DATA), "ours", slow.pieces())) for _ in range(2)]

    async def both() -> bool:
        return coming(parts) == 2 * len(DATA)

    await until(both)
    await slow.reached.wait()
    for each in sending:
        each.cancel()
    await asyncio.wait(sending)
    kept = (await blobs.progress(DIGEST, "ours")).committed  # S3 keeps nothing of so small a blob

    async def rest() -> AsyncIterator[Piece]:
        yield Piece(kept, memoryview(DATA)[kept:])

    await blobs.receive(DIGEST, len(DATA), "ours", rest())
    left = parts.store.progress(DIGEST, "ours", hidden=True).committed
    assert (used(parts, "ours"), coming(parts)) == (len(DATA), left)


async def test_of_wrong_bytes_nothing_counts(parts: Parts) -> None:
    with pytest.raises(DigestMismatch):
        await send(parts, "ours", bytes(len(DATA)), digest=DIGEST)
    assert coming(parts) == 0


async def test_a_process_that_died_leaves_room_for_who_goes_on(parts: Parts) -> None:
    slow = Slow()
    sending = asyncio.create_task(
        parts.blobs(Failing(parts.catalog, "release", behind=False)).receive(DIGEST, len(DATA), "ours", slow.pieces())
    )
    await slow.reached.wait()
    sending.cancel()
    await asyncio.wait([sending])
    assert coming(parts) == len(DATA)  # as nobody said that it broke off
    kept = (await parts.blobs().progress(DIGEST, "ours")).committed

    async def rest() -> AsyncIterator[Piece]:
        yield Piece(kept, memoryview(DATA)[kept:])

    await parts.blobs().receive(DIGEST, len(DATA), "ours", rest())
    assert (used(parts, "ours"), coming(parts)) == (len(DATA), 0)


async def test_bytes_that_are_not_taken_in_the_end_count_until_they_are_swept(parts: Parts) -> None:
    async def lowered() -> AsyncIterator[Piece]:
        async for piece in pieces(DATA):
            yield piece
        limit(parts, len(DATA) - 1)

    with pytest.raises(QuotaExceeded):
        await parts.blobs().receive(DIGEST, len(DATA), "ours", lowered())
    assert (used(parts, "ours"), coming(parts)) == (0, len(DATA))
    assert await parts.blobs().missing([DIGEST], "ours") == [DIGEST]
    await parts.collector().collect(grace=AT_ONCE)
    assert coming(parts) == 0
    assert parts.store.missing([DIGEST]) == [DIGEST]


async def test_room_is_renewed_while_bytes_come(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "_RENEW_SECONDS", -1.0)

    async def meanwhile() -> AsyncIterator[Piece]:
        async for piece in pieces(DATA):
            await parts.collector().collect(grace=AT_ONCE)  # which forgets what was not renewed
            yield piece

    await parts.blobs().receive(DIGEST, len(DATA), "ours", meanwhile())
    assert used(parts, "ours") == len(DATA)


async def test_who_sends_too_many_at_a_time_is_asked_to_wait(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "MAX_UPLOADS", 1)
    blobs, slow = parts.blobs(), Slow()
    mine, other = (Actor(name, Rights({"ours": Permission.PUSH})) for name in ("mine", "other"))
    small = b"of somebody else's"
    limit(parts, 0)
    with acting(mine):
        sending = asyncio.create_task(blobs.receive(DIGEST, len(DATA), "ours", slow.pieces()))
        await slow.reached.wait()
        with pytest.raises(TooManyUploads, match="at most 1 uploads of mine") as refused:
            await blobs.receive(digest_of(small), len(small), "ours", pieces(small))
    assert refused.value.retryable
    with acting(other):
        await blobs.receive(digest_of(small), len(small), "ours", pieces(small))
    slow.go_on.set()
    await sending
    with acting(mine):
        await blobs.receive(digest_of(small), len(small), "ours", pieces(small))


async def test_a_namespace_without_a_limit_reserves_nothing(parts: Parts) -> None:
    limit(parts, 0)
    await parts.blobs(Failing(parts.catalog, "reserve", behind=False)).receive(DIGEST, len(DATA), "ours", pieces(DATA))
    limit(parts, 2 * len(DATA))
    with pytest.raises(StorageUnavailable):
        await send(parts, "ours", b"small", ledger=Failing(parts.catalog, "reserve", behind=False))


@pytest.mark.parametrize(("size", "refusal"), [(-len(DATA), InvalidInput), (MAX_BLOB_BYTES + 1, BlobTooLarge)])
async def test_a_size_that_is_none_reserves_nothing(parts: Parts, size: int, refusal: type[LorryError]) -> None:
    with pytest.raises(refusal):
        await parts.blobs(Failing(parts.catalog, "reserve", behind=False)).receive(DIGEST, size, "ours", pieces(DATA))
