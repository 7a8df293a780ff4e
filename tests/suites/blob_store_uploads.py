"""Uploads: refused, broken, gone on with, side by side. Rules for every blob store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_registry.blobs.protocol import MAX_BLOB_BYTES, BlobStore, Progress
from lorry.errors import BlobTooLarge, DigestMismatch, InvalidDigest, InvalidInput, OffsetMismatch, UploadIncomplete
from lorry.format.digest import digest_of
from tests.suites.blob_store_rules import StoreRules
from tests.support.blobs import CHUNK, Place, blob, feed, put, read

# Cuts around the ends of granules: (whole granules, bytes beside); -1 of none is all of them, and no finish.
_CUTS = [(0, -1), (1, -1)]
_MORE_CUTS = [(0, 0), (0, 1), (1, 0), (1, 1), (2, -1), (2, 0), (2, 1)]


class UploadRules(StoreRules):
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

    @pytest.mark.parametrize(
        ("granules", "beside"),
        [*_CUTS, *(pytest.param(*cut, marks=pytest.mark.long) for cut in _MORE_CUTS)],
    )
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
