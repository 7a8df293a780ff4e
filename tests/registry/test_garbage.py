"""Collections of garbage on both kinds of storage: what goes, what stays, and what a crash leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update

from adapter_registry.domain.garbage import Collection
from adapter_registry.store.keeping import BlobRow
from lorry.errors import (
    AlreadyRunning,
    BlobBeingSwept,
    BlobNotFound,
    CorruptBlob,
    InvalidInput,
    LorryError,
    MissingBlobs,
    StorageUnavailable,
)
from lorry.format.digest import digest_of
from tests.suites.catalog_values import adapter, ref
from tests.support.blobs import blob, put
from tests.support.upkeep import AT_ONCE, DAY, Failing, Parts, Place, Waiting, naming, parts_at

NAMED, GARBAGE = b"named", b"garbage"


@pytest.fixture
def parts(place: Place) -> Iterator[Parts]:
    with parts_at(place) as parts:
        yield parts


async def a_stock(parts: Parts) -> tuple[str, str]:
    """A blob that a version names, and one that none does."""
    return await parts.publish("cat", NAMED), await parts.send(GARBAGE)


def stored(parts: Parts) -> set[str]:
    return {found.digest for found in parts.store.blobs()}


def recorded(parts: Parts) -> set[str]:
    return {state.digest for state in parts.catalog.states("", 100)}


def everything_visible_is_whole(parts: Parts) -> bool:
    """No row that is live, and no version, lacks its bytes."""
    live = {state.digest for state in parts.catalog.states("", 100) if not state.condemned}
    return live <= stored(parts)


async def test_what_no_version_names_is_swept_once_its_grace_is_over(parts: Parts) -> None:
    named, garbage = await a_stock(parts)
    kept = await parts.collector().collect(grace=DAY)
    assert (kept.swept_blobs, kept.kept_blobs, kept.kept_bytes) == (0, 2, len(NAMED) + len(GARBAGE))
    swept = await parts.collector().collect(grace=AT_ONCE)
    assert swept == Collection(
        swept_blobs=1, swept_bytes=len(GARBAGE), kept_blobs=1, kept_bytes=len(NAMED), swept_uploads=0
    )
    assert stored(parts) == recorded(parts) == {named}
    assert await parts.read(named) == NAMED
    with pytest.raises(BlobNotFound):
        await parts.read(garbage)


async def test_a_grace_is_counted_from_the_last_question_though_not_each_is_written(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapter_registry.service.garbage.TOUCH_EVERY", DAY)
    _, garbage = await a_stock(parts)
    asked = datetime.now(UTC)
    with parts.catalog._database.write() as session:
        session.execute(update(BlobRow).values(touched=asked - DAY / 2))
    swept = await parts.collector().collect(grace=DAY / 3)
    assert swept.swept_blobs == 0
    assert (await parts.collector().collect(grace=DAY / 5)).swept_blobs == 1
    assert garbage not in stored(parts)


async def test_a_blob_that_two_versions_name_goes_with_the_second(parts: Parts) -> None:
    digest = await parts.publish("cat", NAMED)
    await parts.publish("dog", NAMED)
    for name, left in (("cat", {digest}), ("dog", set())):
        parts.catalog.delete_version(ref(f"{name}@1"), force=False)
        await parts.collector().collect(grace=AT_ONCE)
        assert stored(parts) == left


async def test_a_dry_run_says_what_a_real_one_does_and_changes_nothing(parts: Parts) -> None:
    await a_stock(parts)
    for number in range(3):
        await parts.publish("line", b"line %d" % number)
    parts.catalog.update_adapter(adapter("line"), description=None, labels=None, keep_last=1, revision=None)
    stray = put(parts.store, b"stray")
    parts.catalog.condemn([await parts.send(b"half way out")], datetime.now(UTC))
    before = (stored(parts), parts.catalog.states("", 100), parts.catalog.last_event())
    would = await parts.collector().collect(dry_run=True, grace=AT_ONCE)
    assert (stored(parts), parts.catalog.states("", 100), parts.catalog.last_event()) == before
    assert (would.expired, would.expired_count) == (("default/line@1", "default/line@2"), 2)
    assert would.swept_blobs == len({digest_of(GARBAGE), digest_of(b"half way out"), stray})
    assert await parts.collector().collect(grace=AT_ONCE) == would


async def test_what_retention_let_go_of_has_a_grace_of_its_own(parts: Parts) -> None:
    old = await parts.publish("cat", b"old")
    await parts.publish("cat", b"new")
    parts.catalog.update_adapter(adapter("cat"), description=None, labels=None, keep_last=1, revision=None)
    first = await parts.collector().collect(grace=AT_ONCE)
    assert (first.expired, first.swept_blobs, old in stored(parts)) == (("default/cat@1",), 0, True)
    second = await parts.collector().collect(grace=AT_ONCE)
    assert (second.expired, second.swept_blobs, old in stored(parts)) == ((), 1, False)


async def test_bytes_that_no_row_knows_are_let_alone_until_they_have_settled(place: Place) -> None:
    with parts_at(place, settling=timedelta(hours=1)) as parts:
        stray = put(parts.store, b"its row comes next")
        done = await parts.collector().collect(grace=AT_ONCE)
        assert (done.swept_blobs, done.kept_blobs, stored(parts), recorded(parts)) == (0, 1, {stray}, set())
    with parts_at(place) as parts:
        assert (await parts.collector().collect(grace=AT_ONCE)).swept_blobs == 1
        assert stored(parts) == set()


async def test_a_version_whose_blob_lost_its_row_gets_it_back(parts: Parts) -> None:
    digest = await parts.publish("cat", NAMED)
    with parts.catalog._database.write() as session:
        session.execute(text("DELETE FROM blob_claims"))
        session.execute(text("DELETE FROM blobs"))
    done = await parts.collector().collect(grace=AT_ONCE)
    assert (done.swept_blobs, done.kept_blobs, parts.catalog.state(digest).size) == (0, 1, len(NAMED))


CRASHES = [
    ("catalog", "condemn", False),
    ("catalog", "condemn", True),
    ("store", "delete", False),
    ("store", "delete", True),
    ("catalog", "remove", False),
    ("catalog", "remove", True),
]


@pytest.mark.parametrize(("whose", "method", "behind"), CRASHES)
async def test_a_run_that_dies_between_two_steps_is_finished_by_the_next(
    parts: Parts,
    whose: str,
    method: str,
    behind: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    named, garbage = await a_stock(parts)
    dying = parts.collector(**{whose: Failing(getattr(parts, whose), method, behind=behind)})
    with pytest.raises(StorageUnavailable):
        await dying.collect(grace=AT_ONCE)
    assert everything_visible_is_whole(parts)
    left = 0 if (method, behind) == ("remove", True) else 1
    assert (await parts.collector().collect(grace=AT_ONCE)).swept_blobs == left
    assert stored(parts) == recorded(parts) == {named}
    assert await parts.send(GARBAGE) == garbage
    assert await parts.read(garbage) == GARBAGE


async def test_an_upload_of_what_is_being_swept_comes_again_and_wins(parts: Parts) -> None:
    await a_stock(parts)
    store = Waiting(parts.store, "delete")
    sweep = asyncio.create_task(parts.collector(store=store).collect(grace=AT_ONCE))
    await asyncio.to_thread(store.reached.wait)
    with pytest.raises(BlobBeingSwept):
        await parts.send(GARBAGE)
    with pytest.raises(MissingBlobs):
        parts.catalog.create_version(naming("late", GARBAGE))
    store.go_on.set()
    assert (await sweep).swept_blobs == 1
    assert await parts.publish("late", GARBAGE) in stored(parts)
    assert (await parts.collector().collect(grace=AT_ONCE)).swept_blobs == 0


async def test_a_version_published_between_looking_and_condemning_keeps_its_bytes(parts: Parts) -> None:
    named, _ = await a_stock(parts)
    catalog = Waiting(parts.catalog, "condemn")
    sweep = asyncio.create_task(parts.collector(catalog=catalog).collect(grace=AT_ONCE))
    await asyncio.to_thread(catalog.reached.wait)
    late = await parts.publish("late", GARBAGE)
    catalog.go_on.set()
    assert ((await sweep).swept_blobs, stored(parts)) == (0, {named, late})


async def test_an_upload_whose_bytes_came_before_the_sweep_and_its_row_after_it_is_told_to_come_again(
    parts: Parts,
) -> None:
    ledger = Waiting(parts.catalog, "record")
    sending = asyncio.create_task(parts.send(GARBAGE, ledger=ledger))
    await asyncio.to_thread(ledger.reached.wait)
    assert (await parts.collector().collect(grace=AT_ONCE)).swept_blobs == 1
    ledger.go_on.set()
    with pytest.raises(BlobBeingSwept):
        await sending
    assert await parts.read(await parts.send(GARBAGE)) == GARBAGE


async def test_a_reader_of_what_is_swept_gets_all_of_it_or_an_error(parts: Parts) -> None:
    data = blob(12 << 20)
    digest = await parts.send(data)
    pieces = parts.blobs().read(digest, 0, 0)
    got = bytes((await anext(pieces)).data)
    await parts.collector().collect(grace=AT_ONCE)
    assert digest not in stored(parts)
    try:
        async for piece in pieces:
            got += piece.data
    except LorryError:
        assert len(got) < len(data)
    else:
        assert got == data


async def damaged(parts: Parts, digest: str) -> None:
    """What a read does about bytes that are not right."""
    parts.place.spoil(digest)
    with pytest.raises(CorruptBlob):
        await parts.read(digest)


async def test_damaged_bytes_are_kept_as_long_as_a_version_lacks_sound_ones(parts: Parts) -> None:
    named, garbage = await a_stock(parts)
    for digest in (named, garbage):
        await damaged(parts, digest)
    early = await parts.collector().collect(grace=DAY)
    assert (early.discarded_blobs, len(list(parts.store.quarantined()))) == (0, 2)
    would = await parts.collector().collect(dry_run=True, grace=AT_ONCE)
    done = await parts.collector().collect(grace=AT_ONCE)
    assert (would.discarded_blobs, would.discarded_bytes) == (1, len(GARBAGE))
    assert (done.discarded_blobs, done.discarded_bytes) == (1, len(GARBAGE))
    assert [aside.digest for aside in parts.store.quarantined()] == [named]


async def test_damaged_bytes_go_once_sound_ones_are_back(parts: Parts) -> None:
    named, _ = await a_stock(parts)
    await damaged(parts, named)
    await parts.send(NAMED)
    assert (await parts.collector().collect(grace=AT_ONCE)).discarded_blobs == 1
    assert list(parts.store.quarantined()) == []
    assert await parts.read(named) == NAMED


async def test_of_two_replicas_one_collects(parts: Parts, place: Place) -> None:
    await a_stock(parts)
    store = Waiting(parts.store, "delete")
    with parts_at(place) as other:
        sweep = asyncio.create_task(parts.collector(store=store).collect(grace=AT_ONCE))
        await asyncio.to_thread(store.reached.wait)
        with pytest.raises(AlreadyRunning):
            await other.collector().collect(dry_run=True)
        store.go_on.set()
        await sweep
        assert (await other.collector().collect(grace=AT_ONCE)).swept_blobs == 0


async def test_broken_uploads_are_swept_when_nobody_went_on_with_them_for_the_grace(parts: Parts) -> None:
    data = blob(17 << 20)  # what S3 keeps of a broken upload is whole parts
    upload = parts.store.upload(digest_of(data), len(data), "default")
    upload.write(0, data[: 16 << 20])
    upload.close()
    for grace, swept in ((DAY, 0), (AT_ONCE, 1)):
        assert (await parts.collector().collect(dry_run=True, grace=grace)).swept_uploads == swept
        assert (await parts.collector().collect(grace=grace)).swept_uploads == swept
    assert parts.store.progress(digest_of(data), "default").committed == 0


@pytest.mark.parametrize("grace", [timedelta(seconds=-1), timedelta(days=4_000)])
async def test_a_grace_that_has_no_meaning_is_refused(parts: Parts, grace: timedelta) -> None:
    with pytest.raises(InvalidInput):
        await parts.collector().collect(grace=grace)
