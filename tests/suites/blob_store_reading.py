"""What is visible, and how it is read: rules for every blob store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_registry.blobs.protocol import BlobStore, Progress
from lorry.errors import BlobNotFound, OutOfRange
from lorry.format.digest import digest_of
from tests.suites.blob_store_rules import StoreRules
from tests.support.blobs import Place, blob, feed, join, put, read


class ReadingRules(StoreRules):
    # Visibility

    def test_an_upload_is_invisible_until_it_is_finished(self, store: BlobStore) -> None:
        data = blob(1000)
        digest = digest_of(data)
        upload = store.upload(digest, len(data))
        feed(upload, data)
        assert store.missing([digest]) == [digest]
        assert not store.progress(digest).complete
        with pytest.raises(BlobNotFound):
            store.open(digest)
        upload.finish()
        upload.close()
        assert store.missing([digest]) == []
        assert store.progress(digest) == Progress(1000, complete=True)

    def test_a_finished_blob_is_read_as_it_came_by_every_store_on_the_place(self, place: Place) -> None:
        data = blob(place.large)
        digest = put(place.open(), data)
        assert read(place.open(), digest) == data

    def test_the_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        digest = put(store, b"")
        assert store.open(digest).size == 0
        assert read(store, digest) == b""

    def test_missing_answers_in_the_order_of_the_question(self, store: BlobStore) -> None:
        stored = put(store, b"stored")
        first, second = digest_of(b"first"), digest_of(b"second")
        assert store.missing([second, stored, first]) == [second, first]
        assert store.missing([]) == []

    def test_a_blob_that_exists_is_not_stored_again(self, store: BlobStore) -> None:
        data = blob(1000)
        digest = put(store, data)
        upload = store.upload(digest, len(data))
        assert upload.existed
        assert upload.committed == 1000
        upload.write(0, b"dropped unread")
        upload.finish()
        upload.close()
        assert read(store, digest) == data

    def test_the_size_of_a_blob_is_that_of_its_bytes_whatever_is_announced(self, store: BlobStore) -> None:
        digest = put(store, blob(1000))
        upload = store.upload(digest, 7)
        assert (upload.existed, upload.committed) == (True, 1000)
        upload.close()
        assert store.progress(digest) == Progress(1000, complete=True)
        assert store.open(digest).size == 1000

    # Reading

    @pytest.mark.parametrize(
        ("offset", "limit", "expected"),
        [(0, 0, b"0123456789"), (3, 0, b"3456789"), (3, 4, b"3456"), (8, 100, b"89"), (10, 0, b""), (10, 5, b"")],
    )
    def test_any_range_can_be_read(self, store: BlobStore, offset: int, limit: int, expected: bytes) -> None:
        assert read(store, put(store, b"0123456789"), offset, limit, chunk=3) == expected

    def test_pieces_are_as_long_as_asked_but_the_last(self, store: BlobStore) -> None:
        opened = store.open(put(store, b"0123456789"))
        assert [bytes(piece) for piece in opened.chunks(1, 0, 4)] == [b"1234", b"5678", b"9"]
        opened.close()

    @pytest.mark.parametrize(("offset", "limit"), [(11, 0), (-1, 0), (0, -1)])
    def test_a_range_outside_is_refused(self, store: BlobStore, offset: int, limit: int) -> None:
        opened = store.open(put(store, b"0123456789"))
        with pytest.raises(OutOfRange, match="10"):
            opened.chunks(offset, limit, 4)
        opened.close()

    def test_many_readers_share_one_open_blob(self, place: Place) -> None:
        store, data = place.open(), blob(1_000_000)
        opened = store.open(put(store, data))
        with ThreadPoolExecutor(4) as pool:
            parts = pool.map(lambda at: join(opened.chunks(at, 100_000, 7_000)), range(0, len(data), 100_000))
            assert b"".join(parts) == data
        opened.close()

    # Deletion

    def test_a_deleted_blob_is_gone_and_may_come_again(self, store: BlobStore) -> None:
        digest = put(store, b"bytes")
        store.delete(digest)
        assert store.missing([digest]) == [digest]
        with pytest.raises(BlobNotFound, match=digest):
            store.open(digest)
        assert put(store, b"bytes") == digest

    def test_deleting_what_is_not_there_does_nothing(self, store: BlobStore) -> None:
        store.delete(digest_of(b"never stored"))

    # Health

    def test_a_probe_of_a_sound_store_passes_and_leaves_nothing_visible(self, place: Place) -> None:
        place.open().probe()
        place.open().probe()
