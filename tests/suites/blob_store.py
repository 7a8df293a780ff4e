"""What every blob store must do: the tests that each driver runs, inherited from BlobStoreSuite.

A driver's test class gives one fixture, `place`: a fresh storage that stores can be opened on.
Knows only the Protocols; what a driver alone promises is tested beside it.
"""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_registry.blobs.protocol import MAX_BLOB_BYTES, BlobStore, Progress
from lorry.errors import (
    BlobNotFound,
    BlobTooLarge,
    DigestMismatch,
    InvalidDigest,
    InvalidInput,
    OffsetMismatch,
    OutOfRange,
    UploadIncomplete,
)
from lorry.format.digest import Hasher, digest_of
from tests.support.blobs import CHUNK, Place, blob, feed, join, put, read


class BlobStoreSuite:
    """Inherit and give the fixture `place`."""

    @pytest.fixture
    def store(self, place: Place) -> BlobStore:
        return place.open()

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

    # Refusals

    @pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
    def test_wrong_bytes_are_refused_and_thrown_away(self, place: Place, large: bool) -> None:  # noqa: FBT001
        store, data = place.open(), blob(place.large if large else 1000)
        digest = digest_of(data)
        upload = store.upload(digest, len(data))
        feed(upload, data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(DigestMismatch, match=digest):
            upload.finish()
        upload.close()
        assert store.progress(digest) == Progress(0, complete=False)
        assert put(store, data) == digest

    def test_wrong_bytes_of_an_earlier_stream_are_found_at_the_end(self, place: Place) -> None:
        store, data = place.open(), blob(place.large)
        digest = digest_of(data)
        upload = store.upload(digest, len(data))
        upload.write(0, bytes(2 * place.granule))
        upload.close()
        resumed = place.open().upload(digest, len(data))
        assert resumed.committed == 2 * place.granule
        feed(resumed, data)
        with pytest.raises(DigestMismatch):
            resumed.finish()
        resumed.close()
        assert store.progress(digest) == Progress(0, complete=False)
        assert read(store, put(store, data)) == data

    def test_a_finish_before_the_end_keeps_what_came(self, place: Place) -> None:
        data = blob(place.large)
        digest = digest_of(data)
        upload = place.open().upload(digest, len(data))
        upload.write(0, data[: place.granule])
        with pytest.raises(UploadIncomplete, match=str(len(data))):
            upload.finish()
        upload.close()
        assert place.open().progress(digest) == Progress(place.granule, complete=False)

    @pytest.mark.parametrize("offset", [0, 9, 11])
    def test_a_chunk_out_of_place_says_where_to_go_on(self, store: BlobStore, offset: int) -> None:
        upload = store.upload(digest_of(b"0123456789abcdef"), 16)
        upload.write(0, b"0123456789")
        with pytest.raises(OffsetMismatch) as refused:
            upload.write(offset, b"abcdef")
        assert refused.value.metadata == {"committed_bytes": "10"}
        upload.write(10, b"abcdef")
        upload.finish()
        upload.close()

    def test_more_bytes_than_announced_are_refused(self, store: BlobStore) -> None:
        upload = store.upload(digest_of(b"four"), 4)
        with pytest.raises(BlobTooLarge, match="4"):
            upload.write(0, b"five!")
        upload.close()

    def test_sizes_that_no_store_takes_are_refused(self, store: BlobStore) -> None:
        with pytest.raises(BlobTooLarge, match=str(MAX_BLOB_BYTES)):
            store.upload(digest_of(b""), MAX_BLOB_BYTES + 1)
        with pytest.raises(InvalidInput, match="-1"):
            store.upload(digest_of(b""), -1)

    @pytest.mark.parametrize("digest", ["", "sha256:../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32])
    def test_what_is_no_digest_reaches_no_storage(self, store: BlobStore, digest: str) -> None:
        calls = [store.progress, store.open, store.delete, lambda text: store.upload(text, 1)]
        for call in [*calls, lambda text: store.missing([text])]:
            with pytest.raises(InvalidDigest):
                call(digest)

    # Resumption

    @pytest.mark.parametrize("granules", [0, 1, 2])
    @pytest.mark.parametrize("beside", [-1, 0, 1])
    def test_a_broken_upload_goes_on_from_what_was_kept(self, place: Place, granules: int, beside: int) -> None:
        cut = granules * place.granule + beside
        if cut < 0:
            cut = place.large  # everything came but the finish
        data = blob(place.large)
        digest = digest_of(data)
        broken = place.open().upload(digest, len(data))
        feed(broken, data[:cut])
        broken.close()

        kept = place.open().progress(digest)
        assert kept == Progress(cut - cut % place.granule, complete=False)
        resumed = place.open().upload(digest, len(data))
        assert resumed.committed == kept.committed
        feed(resumed, data)
        resumed.finish()
        resumed.close()
        assert read(place.open(), digest) == data

    def test_what_was_kept_for_a_longer_announcement_is_not_gone_on_from(self, place: Place) -> None:
        data = blob(place.large)
        digest = digest_of(data)
        wrong = place.open().upload(digest, 2 * len(data))
        feed(wrong, data + data[: place.granule])
        wrong.close()
        store = place.open()
        upload = store.upload(digest, len(data))
        assert upload.committed == 0
        feed(upload, data)
        upload.finish()
        upload.close()
        assert read(store, digest) == data

    # Together

    @pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
    def test_uploads_of_one_digest_at_the_same_time_all_succeed(self, place: Place, large: bool) -> None:  # noqa: FBT001
        data = blob(place.large if large else 1000)
        digest = digest_of(data)
        store = place.open()
        uploads = [store.upload(digest, len(data)) for _ in range(3)]
        for at in range(0, len(data), CHUNK):
            for upload in uploads:
                upload.write(at, data[at : at + CHUNK])
        for upload in uploads:
            upload.finish()
            upload.close()
        assert read(store, digest) == data

    def test_threads_that_store_the_same_and_other_blobs_do_not_meet(self, place: Place) -> None:
        store = place.open()
        blobs = [blob(100_000 + index % 3, seed=index % 3) for index in range(12)]
        with ThreadPoolExecutor(4) as pool:
            digests = list(pool.map(lambda data: put(store, data, chunk=10_000), blobs))
            assert list(pool.map(lambda digest: read(store, digest), digests)) == blobs

    def test_many_readers_share_one_open_blob(self, place: Place) -> None:
        store, data = place.open(), blob(1_000_000)
        opened = store.open(put(store, data))
        with ThreadPoolExecutor(4) as pool:
            parts = pool.map(lambda at: join(opened.chunks(at, 100_000, 7_000)), range(0, len(data), 100_000))
            assert b"".join(parts) == data
        opened.close()

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


class BoundedMemorySuite:
    """For the stores that do not keep blobs in memory."""

    def test_memory_is_bounded_by_two_parts_whatever_the_size(self, place: Place) -> None:
        size, piece = 64 << 20, blob(CHUNK)
        hasher = Hasher()
        for _ in range(size // CHUNK):
            hasher.update(piece)
        place.open().probe()  # the client's own tables are not the upload's
        store = place.open()
        tracemalloc.start()
        try:
            upload = store.upload(hasher.digest, size)
            for at in range(0, size, CHUNK):
                upload.write(at, piece)
            upload.finish()
            upload.close()
            opened = store.open(hasher.digest)
            assert sum(len(each) for each in opened.chunks(0, 0, CHUNK)) == size
            opened.close()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 20 << 20
