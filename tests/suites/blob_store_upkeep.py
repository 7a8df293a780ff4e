"""Listing, sweeping and quarantine: rules for every blob store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from adapter_registry.blobs.protocol import BlobStore, Progress
from lorry.errors import BlobNotFound, InvalidDigest
from lorry.format.digest import digest_of
from tests.suites.blob_store_rules import StoreRules
from tests.support.blobs import Place, blob, feed, put, read

LONG = timedelta(hours=1)
# S3 shows whole seconds, and files the kernel's tick.
ROUNDING = timedelta(seconds=2)


def in_an_hour() -> datetime:
    return datetime.now(UTC) + LONG


def broken_upload(place: Place, seed: int = 1, owner: str = "") -> str:
    """Of `place.granule` bytes, in a process that has ended; its digest."""
    data = blob(place.large, seed)
    upload = place.open().upload(digest_of(data), len(data), owner)
    feed(upload, data[: place.granule])
    upload.close()
    return digest_of(data)


class UpkeepRules(StoreRules):
    # Listing

    def test_every_visible_blob_is_listed_with_its_size_and_its_age(self, place: Place) -> None:
        store, began = place.open(), datetime.now(UTC)
        expected = {put(store, blob(size)): size for size in (0, 1, 70_000)}
        broken_upload(place)
        store.probe()
        listed = list(place.open().blobs())
        assert {each.digest: each.size for each in listed} == expected
        for each in listed:
            assert began - ROUNDING <= each.modified <= datetime.now(UTC) + ROUNDING

    def test_an_empty_store_has_nothing_to_list(self, store: BlobStore) -> None:
        assert list(store.blobs()) == []
        assert list(store.quarantined()) == []
        assert store.sweep_uploads(in_an_hour()) == 0

    # Sweeping

    def test_a_broken_upload_is_swept_once_nobody_wrote_to_it_for_long(self, place: Place) -> None:
        store, digest = place.open(), broken_upload(place)
        assert store.sweep_uploads(datetime.now(UTC) - LONG) == 0
        assert store.progress(digest).committed == place.granule
        assert store.sweep_uploads(in_an_hour(), dry_run=True) == 1
        assert store.progress(digest).committed == place.granule
        assert store.sweep_uploads(in_an_hour()) == 1
        assert store.progress(digest) == Progress(0, complete=False)
        assert store.sweep_uploads(in_an_hour()) == 0

    def test_the_broken_uploads_of_every_owner_are_swept(self, place: Place) -> None:
        for owner in ("", "a", "b"):
            broken_upload(place, owner=owner)
        assert place.open().sweep_uploads(in_an_hour()) == 3

    def test_an_open_upload_is_not_swept(self, place: Place) -> None:
        store, data = place.open(), blob(place.large)
        upload = store.upload(digest_of(data), len(data))
        upload.write(0, data[: place.granule])
        assert store.sweep_uploads(in_an_hour()) == 0
        feed(upload, data)
        upload.finish()
        upload.close()
        assert read(store, digest_of(data)) == data

    def test_sweeping_takes_neither_blobs_nor_what_is_in_quarantine(self, place: Place) -> None:
        store = place.open()
        kept, damaged = put(store, b"kept"), put(store, b"damaged")
        place.damage(damaged)
        store.quarantine(damaged)
        store.sweep_uploads(in_an_hour())
        assert read(store, kept) == b"kept"
        assert [each.digest for each in store.quarantined()] == [damaged]

    # Quarantine

    def test_a_damaged_blob_is_out_of_sight_until_its_bytes_come_again(self, place: Place) -> None:
        store, data = place.open(), blob(100_000)
        digest = put(store, data)
        place.damage(digest)
        assert store.quarantine(digest)
        assert store.missing([digest]) == [digest]
        assert list(store.blobs()) == []
        with pytest.raises(BlobNotFound):
            store.open(digest)
        assert [each.digest for each in place.open().quarantined()] == [digest]
        assert put(store, data) == digest
        assert read(store, digest) == data

    def test_only_the_first_of_two_takes_a_damaged_blob_away(self, place: Place) -> None:
        digest = put(place.open(), b"bytes")
        place.damage(digest)
        assert [place.open().quarantine(digest) for _ in range(2)] == [True, False]

    def test_a_sound_blob_stays_where_it_is(self, store: BlobStore) -> None:
        digest = put(store, b"bytes")
        assert not store.quarantine(digest)
        assert read(store, digest) == b"bytes"
        assert list(store.quarantined()) == []

    def test_a_healed_blob_is_not_taken_away_by_one_who_saw_the_damage(self, place: Place) -> None:
        first, second = place.open(), place.open()
        digest = put(first, b"bytes")
        place.damage(digest)
        assert first.quarantine(digest)
        put(first, b"bytes")
        assert not second.quarantine(digest)
        assert read(second, digest) == b"bytes"

    def test_a_damaged_blob_is_kept_aside_until_it_is_discarded(self, place: Place) -> None:
        store, began = place.open(), datetime.now(UTC)
        digest = put(store, blob(70_000))
        place.damage(digest)
        store.quarantine(digest)
        put(store, blob(70_000))
        (aside,) = place.open().quarantined()
        assert (aside.digest, aside.size) == (digest, 70_000)
        assert began - ROUNDING <= aside.modified <= datetime.now(UTC) + ROUNDING
        for _ in range(2):
            store.discard(digest)
        assert list(place.open().quarantined()) == []
        assert read(store, digest) == blob(70_000)

    def test_what_is_not_there_or_no_digest_cannot_be_damaged(self, store: BlobStore) -> None:
        assert not store.quarantine(digest_of(b"never stored"))
        with pytest.raises(InvalidDigest):
            store.quarantine("sha256:../../etc/passwd")
        with pytest.raises(InvalidDigest):
            store.discard("sha256:../../etc/passwd")
