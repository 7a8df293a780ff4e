"""The S3 store obeys the suite on a real server, and what it alone promises: typed outages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.blobs.s3 import S3Store
from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.blobs.s3_upload import PART_BYTES
from lorry.errors import BlobNotFound, StorageUnavailable
from lorry.format.digest import digest_of
from tests.suites.blob_store import BlobStoreSuite, BoundedMemorySuite
from tests.support.blobs import Place, blob, feed, put, read
from tests.support.cutting_proxy import cutting_proxy
from tests.support.s3 import S3Server, free_port

pytestmark = pytest.mark.s3


class TestS3Store(BlobStoreSuite, BoundedMemorySuite):
    @pytest.fixture
    def place(self, s3_settings: S3Settings, s3_bucket: str) -> Place:
        return Place(open=lambda: S3Store(s3_bucket, "some/prefix", s3_settings), granule=PART_BYTES)


def calls(store: BlobStore) -> list[Callable[[], object]]:
    """Everything that asks the server."""
    digest = digest_of(b"bytes")
    return [
        store.probe,
        lambda: store.missing([digest]),
        lambda: store.progress(digest),
        lambda: store.upload(digest, 5),
        lambda: store.open(digest),
        lambda: store.delete(digest),
    ]


def test_a_wrong_secret_is_a_typed_outage_that_does_not_tell_the_secret(
    s3_settings: S3Settings, s3_bucket: str
) -> None:
    wrong = replace(s3_settings, secret_access_key="not-the-secret")  # noqa: S106 - that is the point
    for call in calls(S3Store(s3_bucket, "", wrong)):
        with pytest.raises(StorageUnavailable, match=r"40[13]|SignatureDoesNotMatch|Forbidden") as refused:
            call()
        assert "secret" not in str(refused.value)
    assert "not-the-secret" not in repr(wrong)


def test_nobody_at_the_endpoint_is_a_typed_outage(s3_settings: S3Settings) -> None:
    nowhere = replace(s3_settings, endpoint=f"http://127.0.0.1:{free_port()}")
    for call in calls(S3Store("bucket", "", nowhere)):
        with pytest.raises(StorageUnavailable, match="EndpointConnectionError"):
            call()


def test_a_store_outlives_a_server_that_is_killed_and_comes_back(s3_server: S3Server) -> None:
    store, data = S3Store("bucket", "", s3_server.settings), blob(2 * PART_BYTES + 1)
    kept = put(store, b"acknowledged before the kill")
    upload = store.upload(digest_of(data), len(data))
    upload.write(0, data[: PART_BYTES - 1])

    s3_server.kill()
    with pytest.raises(StorageUnavailable):
        upload.write(PART_BYTES - 1, data[PART_BYTES - 1 :])
    upload.close()
    with pytest.raises(StorageUnavailable):
        read(store, kept)

    s3_server.start()
    assert read(store, kept) == b"acknowledged before the kill"
    assert read(store, put(store, data)) == data


def test_processes_that_go_on_with_the_same_parts_all_succeed(s3_settings: S3Settings, s3_bucket: str) -> None:
    data = blob(2 * PART_BYTES + 1)
    # Two stores know nothing of each other's open uploads, as two processes.
    first, second = (S3Store(s3_bucket, "", s3_settings) for _ in range(2))
    upload = first.upload(digest_of(data), len(data))
    upload.write(0, data[:PART_BYTES])
    resumed = second.upload(digest_of(data), len(data))
    assert resumed.committed == PART_BYTES
    feed(upload, data)
    upload.finish()
    feed(resumed, data)
    resumed.finish()
    upload.close()
    resumed.close()
    assert read(second, digest_of(data)) == data


def test_the_staging_key_is_empty_after_an_upload(s3_settings: S3Settings, s3_bucket: str) -> None:
    store = S3Store(s3_bucket, "", s3_settings)
    digest = put(store, blob(2 * PART_BYTES + 1))
    assert store._bucket.size_of(f"blobs/sha256/{digest[7:]}") == 2 * PART_BYTES + 1
    assert store._bucket.size_of(f"uploads/sha256/{digest[7:]}") is None
    assert store._bucket.uploads(f"uploads/sha256/{digest[7:]}") == []


def test_a_body_that_ends_early_is_an_error_never_a_short_read(s3_settings: S3Settings, s3_bucket: str) -> None:
    digest = put(S3Store(s3_bucket, "", s3_settings), blob(5_000_000))
    with cutting_proxy(s3_settings.endpoint, after=2_000_000) as endpoint:
        opened = S3Store(s3_bucket, "", replace(s3_settings, endpoint=endpoint)).open(digest)
        with pytest.raises(StorageUnavailable):
            list(opened.chunks(0, 0, 1 << 20))


def test_a_blob_deleted_under_a_reader_is_a_typed_error(s3_settings: S3Settings, s3_bucket: str) -> None:
    store = S3Store(s3_bucket, "", s3_settings)
    opened = store.open(put(store, b"bytes"))
    store.delete(digest_of(b"bytes"))
    with pytest.raises(BlobNotFound):
        list(opened.chunks(0, 0, 1 << 20))
