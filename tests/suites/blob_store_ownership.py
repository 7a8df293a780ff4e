"""Whose an upload is, who may not know of a blob, and what an upload says of its blocks: rules for every blob store."""

from __future__ import annotations

import pytest

from adapter_registry.blobs.protocol import BLOCK_BYTES, BlobStore, Progress
from lorry.errors import DigestMismatch, InvalidName
from lorry.format.digest import digest_of
from tests.suites.blob_store_rules import StoreRules
from tests.support.blobs import Place, blob, block_hashes, feed, put, read


class OwnershipRules(StoreRules):
    # Owners

    def test_what_a_broken_upload_left_is_its_owners_alone(self, place: Place) -> None:
        data = blob(place.large)
        digest = digest_of(data)
        broken = place.open().upload(digest, len(data), "team-a")
        feed(broken, data[: place.granule])
        broken.close()
        store = place.open()
        assert store.progress(digest, "team-a") == Progress(place.granule, complete=False)
        for other in ("team", "team-a.b", ""):
            assert store.progress(digest, other) == Progress(0, complete=False)
            upload = store.upload(digest, len(data), other)
            assert upload.committed == 0
            upload.close()

    def test_wrong_bytes_of_one_owner_do_not_poison_another(self, place: Place) -> None:
        data = blob(place.large)
        digest = digest_of(data)
        poison = place.open().upload(digest, len(data), "mallory")
        poison.write(0, bytes(place.granule))
        poison.close()
        store = place.open()
        assert put(store, data, owner="alice") == digest
        assert read(store, digest) == data
        assert store.upload(digest, len(data), "mallory").existed

    @pytest.mark.parametrize("owner", ["..", "a/b", "Team", "-a", "a" * 64, "a\n"])
    def test_an_owner_that_is_no_name_reaches_no_storage(self, store: BlobStore, owner: str) -> None:
        digest = digest_of(b"bytes")
        for call in (store.progress, lambda text, owner: store.upload(text, 5, owner)):
            with pytest.raises(InvalidName, match="owner"):
                call(digest, owner)

    # Those who may not know of a blob

    @pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
    def test_for_whom_a_blob_is_hidden_every_byte_counts_as_new(self, place: Place, large: bool) -> None:  # noqa: FBT001
        store, data = place.open(), blob(place.large if large else 1000)
        digest = put(store, data)
        assert store.progress(digest, "guest", hidden=True) == Progress(0, complete=False)
        guess = store.upload(digest, len(data), "guest", hidden=True)
        assert (guess.existed, guess.committed) == (False, 0)
        feed(guess, data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(DigestMismatch):
            guess.finish()
        guess.close()
        assert read(store, digest) == data
        upload = store.upload(digest, len(data), "guest", hidden=True)
        feed(upload, data)
        upload.finish()
        upload.close()
        assert upload.blocks == block_hashes(data)
        assert read(store, digest) == data

    # Blocks

    @pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
    @pytest.mark.parametrize("chunk", [300_000, 2 << 20])
    def test_a_finished_upload_has_the_hash_of_every_block(self, store: BlobStore, size: int, chunk: int) -> None:
        data = blob(size)
        upload = store.upload(digest_of(data), size)
        feed(upload, data, chunk)
        upload.finish()
        upload.close()
        assert upload.blocks == block_hashes(data)

    def test_blocks_that_came_in_an_earlier_stream_are_hashed_too(self, place: Place) -> None:
        data = blob(place.large)
        broken = place.open().upload(digest_of(data), len(data))
        feed(broken, data[: place.granule])
        broken.close()
        upload = place.open().upload(digest_of(data), len(data))
        assert upload.committed == place.granule
        feed(upload, data)
        upload.finish()
        upload.close()
        assert upload.blocks == block_hashes(data)

    def test_a_blob_that_existed_says_nothing_of_its_blocks(self, store: BlobStore) -> None:
        digest = put(store, b"bytes")
        upload = store.upload(digest, 5)
        upload.finish()
        upload.close()
        assert upload.blocks == b""
