"""Large blobs in S3 lie where nobody looks until an empty object names them; what is unnamed is swept."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from adapter_registry.blobs.s3 import S3Store
from adapter_registry.blobs.s3_bucket import Bucket, S3Settings
from adapter_registry.blobs.s3_parts import PART_BYTES
from adapter_registry.blobs.s3_places import Marker, locate
from lorry.errors import BlobNotFound, StorageUnavailable
from lorry.format.digest import digest_of
from tests.support.blobs import blob, feed, flipped, join, put, read
from tests.support.s3 import put_object

pytestmark = pytest.mark.s3

HOUR = timedelta(hours=1)
DATA = blob(PART_BYTES + 1)
DIGEST = digest_of(DATA)
NAME = f"blobs/sha256/{DIGEST[7:]}"


@dataclass
class House:
    """A bucket, and stores on it that know nothing of one another's uploads, as processes."""

    bucket: str
    settings: S3Settings
    store: S3Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = self.another()

    def another(self) -> S3Store:
        return S3Store(self.bucket, "some/prefix", self.settings)

    @property
    def behind(self) -> Bucket:
        return self.store._bucket

    def keys(self) -> list[str]:
        return sorted(found.key for found in self.behind.objects(""))

    def uploads(self) -> list[str]:
        return [begun.key for begun in self.behind.begun("")]

    def data_key(self) -> str:
        located = locate(self.behind, DIGEST)
        assert located is not None
        assert located.size == len(DATA)
        return located.key

    def sweep(self, *, dry_run: bool = False) -> int:
        """Of everything, as another process."""
        return self.another().sweep_uploads(datetime.now(UTC) + HOUR, dry_run=dry_run)

    def store_before_markers(self) -> None:
        """As releases did that copied what was verified."""
        self.store.probe()
        put_object(self.store, NAME, DATA)

    def put_again(self) -> None:
        """Send the bytes once more, as somebody who may not know that they are there."""
        with closing(self.store.upload(DIGEST, len(DATA), "guest", hidden=True)) as upload:
            feed(upload, DATA)
            upload.finish()


@pytest.fixture
def house(s3_settings: S3Settings, s3_bucket: str) -> House:
    return House(s3_bucket, s3_settings)


def test_a_large_blob_is_an_empty_marker_and_the_data_that_it_names(house: House) -> None:
    put(house.store, DATA, owner="team")
    key = house.data_key()
    assert key.startswith(f"data/sha256/{DIGEST[7:]}.team.")
    assert house.keys() == [NAME, key]
    assert house.uploads() == []
    marker = house.behind.head(NAME)
    assert marker is not None
    assert marker.size == 0
    assert [(each.digest, each.size) for each in house.store.blobs()] == [(DIGEST, len(DATA))]
    assert house.sweep() == 0
    house.store.delete(DIGEST)
    assert house.keys() == []


def test_a_small_blob_is_its_own_bytes(house: House) -> None:
    digest = put(house.store, b"small")
    assert house.keys() == [f"blobs/sha256/{digest[7:]}"]


# Buckets of releases before markers


def test_a_blob_of_before_is_served_listed_and_deleted(house: House) -> None:
    house.store_before_markers()
    assert house.store.missing([DIGEST]) == []
    assert house.store.upload(DIGEST, len(DATA)).existed
    assert read(house.store, DIGEST) == DATA
    assert [(each.digest, each.size) for each in house.store.blobs()] == [(DIGEST, len(DATA))]
    assert house.sweep() == 0
    house.store.delete(DIGEST)
    assert house.keys() == []


def test_a_blob_of_before_is_put_aside_where_it_is_damaged_and_healed(house: House) -> None:
    house.store_before_markers()
    assert not house.store.quarantine(DIGEST)
    put_object(house.store, NAME, flipped(DATA))
    assert house.store.quarantine(DIGEST)
    assert [(each.digest, each.size) for each in house.store.quarantined()] == [(DIGEST, len(DATA))]
    assert read(house.store, put(house.store, DATA)) == DATA


def test_a_blob_of_before_that_is_sent_again_is_a_marker_then_and_its_readers_go_on(house: House) -> None:
    house.store_before_markers()
    opened = house.another().open(DIGEST)
    house.put_again()
    assert house.keys() == [NAME, house.data_key()]
    assert join(opened.chunks(0, 0, 1 << 20)) == DATA


# Sent again


def test_what_no_marker_names_any_more_is_swept_and_readers_of_it_go_on(house: House) -> None:
    put(house.store, DATA)
    first, opened = house.data_key(), house.another().open(DIGEST)
    house.put_again()
    second = house.data_key()
    assert house.keys() == sorted([NAME, first, second])
    assert [(each.digest, each.size) for each in house.store.blobs()] == [(DIGEST, len(DATA))]
    assert house.another().sweep_uploads(datetime.now(UTC) - HOUR) == 0
    assert (house.sweep(dry_run=True), house.sweep(), house.sweep()) == (1, 1, 0)
    assert house.keys() == [NAME, second]
    assert join(opened.chunks(5, 100, 1 << 20)) == DATA[5:105]


def test_what_is_damaged_beside_a_sound_copy_that_is_named_is_no_damage(house: House) -> None:
    put(house.store, DATA)
    put_object(house.store, house.data_key(), flipped(DATA))
    house.put_again()
    assert not house.store.quarantine(DIGEST)
    assert read(house.store, DIGEST) == DATA


def test_a_marker_whose_data_is_gone_makes_nothing_visible_and_sending_heals_it(house: House) -> None:
    put(house.store, DATA)
    opened = house.store.open(DIGEST)
    house.behind.delete(house.data_key())
    assert house.store.missing([DIGEST]) == [DIGEST]
    assert not house.store.progress(DIGEST).complete
    assert not house.store.quarantine(DIGEST)
    with pytest.raises(BlobNotFound):
        list(opened.chunks(0, 0, 1 << 20))
    assert read(house.store, put(house.store, DATA)) == DATA
    assert house.sweep() == 0


@pytest.mark.parametrize(
    "metadata",
    [
        {"lorry-data": "quarantine/sha256/" + "a" * 64, "lorry-size": "5"},
        {"lorry-data": f"data/sha256/{'a' * 64}..b", "lorry-size": "5"},
        {"lorry-data": f"data/sha256/{DIGEST[7:]}..b", "lorry-size": "five"},
        {"lorry-data": f"data/sha256/{DIGEST[7:]}..b"},
        {},
    ],
)
def test_a_marker_that_is_none_of_ours_or_lost_its_metadata_is_a_typed_outage_and_costs_nothing(
    house: House, metadata: dict[str, str]
) -> None:
    house.store.probe()
    upload = house.behind.begin(NAME, metadata)
    house.behind.complete(NAME, upload, [house.behind.send(NAME, upload, 1, bytearray())])
    put_object(house.store, f"data/sha256/{DIGEST[7:]}..a", DATA)
    put_object(house.store, f"data/sha256/{DIGEST[7:]}..b", DATA)
    for ask in (house.store.open, house.store.progress, house.store.quarantine, lambda _: house.sweep()):
        with pytest.raises(StorageUnavailable):
            ask(DIGEST)
    assert len(house.keys()) == 3


# The sweep beside an upload that is about to be visible: two of its calls, and what a sweep between them does


def stored_unnamed(house: House) -> str:
    """Data that is whole, as an upload leaves it for a moment; its key."""
    key = f"data/sha256/{DIGEST[7:]}..{'0' * 32}"
    put_object(house.store, key, DATA)
    return key


def test_data_and_marker_that_a_dead_process_left_are_swept(house: House) -> None:
    house.store.probe()
    key = stored_unnamed(house)
    Marker(house.behind, DIGEST, key, len(DATA))
    assert house.another().sweep_uploads(datetime.now(UTC) - HOUR) == 0
    assert (house.keys(), house.uploads()) == ([key], [NAME])
    assert house.sweep(dry_run=True) == 2
    assert house.sweep() == 2
    assert (house.keys(), house.uploads()) == ([], [])


def test_a_marker_whose_data_was_swept_can_not_be_made(house: House) -> None:
    house.store.probe()
    marker = Marker(house.behind, DIGEST, stored_unnamed(house), len(DATA))
    assert house.sweep() == 2
    with pytest.raises(StorageUnavailable, match="NoSuchUpload"):
        marker.make()
    assert house.keys() == []
    assert read(house.store, put(house.store, DATA)) == DATA


def test_data_stays_as_long_as_its_marker_may_be_made_however_old_the_data_is(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.store.probe()
    key = stored_unnamed(house)
    marker = Marker(house.behind, DIGEST, key, len(DATA))
    sweeper = house.another()
    # AWS dates an object of parts to the begin of its upload, so data may be old when it comes.
    monkeypatch.setattr(sweeper._bucket, "begun", lambda *_: iter(()))
    assert sweeper.sweep_uploads(datetime.now(UTC) + HOUR) == 0
    marker.make()
    assert house.data_key() == key
    assert read(house.store, DIGEST) == DATA
    assert house.sweep() == 0


def test_a_marker_that_was_made_though_the_answer_was_lost_is_made(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.store.probe()
    key = stored_unnamed(house)
    marker, complete = Marker(house.behind, DIGEST, key, len(DATA)), house.behind.complete

    def lost(*parts: object) -> str:
        complete(*parts)  # type: ignore[arg-type]
        raise StorageUnavailable("no answer")

    monkeypatch.setattr(house.behind, "complete", lost)
    marker.make()
    assert house.data_key() == key


def test_a_process_does_not_sweep_what_it_is_about_to_name(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    make, swept = Marker.make, []

    def swept_first(marker: Marker) -> None:
        swept.append(house.store.sweep_uploads(datetime.now(UTC) + HOUR))
        make(marker)

    monkeypatch.setattr(Marker, "make", swept_first)
    assert read(house.store, put(house.store, DATA)) == DATA
    assert swept == [0]
