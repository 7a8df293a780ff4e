"""The blob service on both kinds of storage: whose bytes they are, and when they are there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from adapter_registry.blobs.protocol import BLOCK_BYTES
from adapter_registry.domain.acting import Actor, Permission, Rights, acting
from adapter_registry.domain.namespaces import NamespaceChange
from adapter_registry.service.stored import Piece
from adapter_registry.store.keeping import BlobRow
from lorry.errors import BlobBeingSwept, BlobNotFound, DigestMismatch, MissingBlobs, StorageUnavailable
from lorry.format.digest import digest_of
from tests.support.sending import DATA, DIGEST, pieces, read, send, used, write
from tests.support.upkeep import Failing, Parts, Place, naming, parts_at

OURS = Actor("ours", Rights({"ours": Permission.PUSH}))
THEIRS = Actor("theirs", Rights({"theirs": Permission.PUSH}))
READER = Actor("reader", Rights({"reader": Permission.READ, "ours": Permission.READ}))


@pytest.fixture
def parts(place: Place) -> Iterator[Parts]:
    with parts_at(place) as parts:
        yield parts


async def test_a_namespace_brings_bytes_once(parts: Parts) -> None:
    with acting(OURS):
        assert await parts.blobs().missing([DIGEST], "ours") == [DIGEST]
        assert not await send(parts, "ours")
        assert await parts.blobs().missing([DIGEST], "ours") == []
        assert await send(parts, "ours", b"", digest=DIGEST) is True
        assert await read(parts) == DATA
    assert used(parts, "ours") == len(DATA)


async def test_who_may_not_know_of_a_blob_meets_it_as_a_new_one(parts: Parts) -> None:
    with acting(OURS):
        await send(parts, "ours")
    with acting(THEIRS):
        blobs = parts.blobs()
        assert await blobs.missing([DIGEST], "theirs") == [DIGEST]
        assert await blobs.progress(DIGEST, "theirs") == await blobs.progress(digest_of(b"none"), "theirs")
        for unknown in (DIGEST, digest_of(b"none")):
            with pytest.raises(BlobNotFound) as refused:
                await anext(blobs.read(unknown, 0, 0))
            assert refused.value.message == f"no blob {unknown}"
        assert not await send(parts, "theirs")
        assert await read(parts) == DATA
    assert (used(parts, "ours"), used(parts, "theirs")) == (len(DATA), len(DATA))


async def test_a_digest_alone_is_no_claim_on_anothers_bytes(parts: Parts) -> None:
    with acting(OURS):
        await send(parts, "ours")
    with acting(THEIRS):
        with pytest.raises(DigestMismatch):
            await send(parts, "theirs", bytes(len(DATA)), digest=DIGEST)
        with pytest.raises(BlobNotFound):
            await read(parts)
        with pytest.raises(MissingBlobs):
            parts.catalog.create_version(naming("theirs/cat", DATA))
    with acting(OURS):
        assert await read(parts) == DATA
    assert used(parts, "theirs") == 0


@pytest.mark.parametrize("known", [False, True])
async def test_what_a_broken_upload_keeps_does_not_tell_who_else_has_the_blob(parts: Parts, *, known: bool) -> None:
    if known:
        with acting(OURS):
            await send(parts, "ours")
    with acting(THEIRS):
        with pytest.raises(ConnectionError):
            await send(parts, "theirs", broken_at=BLOCK_BYTES + 5)
        kept = await parts.blobs().progress(DIGEST, "theirs")
        assert not kept.complete
        # Files keep every byte, S3 keeps whole parts of 8 MiB.
        assert kept.committed == (BLOCK_BYTES + 5 if parts.place.url.startswith("sqlite") else 0)
        assert (await parts.blobs().progress(DIGEST, "others")).committed == 0


async def test_a_blob_that_the_caller_may_read_elsewhere_is_published_without_sending_it(parts: Parts) -> None:
    with acting(OURS):
        await send(parts, "ours")
    both = Actor("both", Rights({"theirs": Permission.PUSH, "ours": Permission.READ}))
    with acting(both):
        assert await parts.blobs().missing([DIGEST], "theirs") == []
        parts.catalog.create_version(naming("theirs/cat", DATA))
    with acting(THEIRS):
        assert await read(parts) == DATA
    assert used(parts, "theirs") == len(DATA)


async def test_a_reader_reads_what_its_namespaces_hold(parts: Parts) -> None:
    with acting(OURS):
        await send(parts, "ours")
    with acting(READER):
        assert await read(parts) == DATA


async def test_what_a_namespace_has_counts_once_and_is_never_too_much(parts: Parts) -> None:
    parts.catalog.update_namespace(NamespaceChange("ours", max_bytes=len(DATA)))
    for _ in range(2):
        await send(parts, "ours")
    parts.catalog.create_version(naming("ours/cat", DATA))
    parts.catalog.create_version(naming("ours/dog", DATA))
    assert used(parts, "ours") == len(DATA)


async def test_a_blob_on_its_way_out_is_neither_there_nor_taken(parts: Parts) -> None:
    await send(parts, "ours")
    write(parts, condemned=True)
    assert await parts.blobs().missing([DIGEST], "ours") == [DIGEST]
    with pytest.raises(BlobBeingSwept) as refused:
        await send(parts, "ours")
    assert refused.value.retryable
    with pytest.raises(BlobNotFound):
        await read(parts)
    with pytest.raises(MissingBlobs):
        parts.catalog.create_version(naming("ours/cat", DATA))


async def test_a_blob_that_was_condemned_while_it_came_is_not_acknowledged(parts: Parts) -> None:
    async def condemned() -> AsyncIterator[Piece]:
        async for piece in pieces(DATA):
            yield piece
        parts.catalog.record(DIGEST, len(DATA), b"", "others")
        write(parts, condemned=True)

    with pytest.raises(BlobBeingSwept):
        await parts.blobs().receive(DIGEST, len(DATA), "ours", condemned())
    assert used(parts, "ours") == 0


async def test_bytes_that_were_swept_before_their_row_came_are_not_acknowledged(parts: Parts) -> None:
    class Sweeping(Failing):
        def _fail(self, method: Any) -> Any:
            def sweep_first(*args: object) -> None:
                parts.store.delete(DIGEST)
                method(*args)

            return sweep_first

    with pytest.raises(BlobBeingSwept):
        await send(parts, "ours", ledger=Sweeping(parts.catalog, "record", behind=False))
    assert await parts.blobs().missing([DIGEST], "ours") == [DIGEST]


async def test_bytes_without_a_row_are_not_there_and_can_be_sent_again(parts: Parts) -> None:
    with pytest.raises(StorageUnavailable):
        await send(parts, "ours", ledger=Failing(parts.catalog, "record", behind=False))
    assert parts.store.missing([DIGEST]) == []
    assert await parts.blobs().missing([DIGEST], "ours") == [DIGEST]
    with pytest.raises(BlobNotFound):
        await read(parts)
    assert await send(parts, "ours") is False
    assert await read(parts) == DATA


async def test_a_row_without_bytes_is_missing_and_can_be_sent_again(parts: Parts) -> None:
    await send(parts, "ours")
    parts.store.delete(DIGEST)
    assert await parts.blobs().missing([DIGEST], "ours") == [DIGEST]
    assert (await parts.blobs().progress(DIGEST, "ours")).complete is False
    assert await send(parts, "ours") is False


async def test_being_asked_for_begins_the_grace_anew(parts: Parts) -> None:
    await send(parts, "ours")
    with parts.catalog._database.write() as session:
        session.execute(text("UPDATE blobs SET touched = '2020-01-01 00:00:00+00:00'"))
    await parts.blobs().missing([DIGEST], "ours")
    with parts.catalog._database.read() as session:
        assert session.get_one(BlobRow, DIGEST).touched.year > 2020


async def test_a_claim_is_in_the_audit_log_once(parts: Parts) -> None:
    with acting(OURS):
        for _ in range(2):
            await send(parts, "ours")
    with parts.catalog._database.read() as session:
        rows = session.execute(text("SELECT principal, namespace, digest FROM audit")).all()
    assert [tuple(row) for row in rows] == [("ours", "ours", DIGEST)]
