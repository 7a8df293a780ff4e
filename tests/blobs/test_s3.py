"""The S3 store obeys the suite on a real server, and what it alone promises: typed outages."""

from __future__ import annotations

import base64
import hashlib
import threading
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest

from adapter_registry.blobs.protocol import BlobStore, Upload
from adapter_registry.blobs.s3 import S3Store
from adapter_registry.blobs.s3_bucket import Part, S3Settings
from adapter_registry.blobs.s3_parts import PART_BYTES
from lorry.errors import BlobNotFound, StorageUnavailable
from lorry.format.digest import digest_of
from tests.suites.blob_store import BoundedMemorySuite
from tests.suites.blob_store_ownership import OwnershipRules
from tests.suites.blob_store_reading import ReadingRules
from tests.suites.blob_store_upkeep import UpkeepRules
from tests.suites.blob_store_uploads import UploadRules
from tests.support.blobs import Place, blob, feed, flipped, put, read
from tests.support.cutting_proxy import cutting_proxy
from tests.support.s3 import S3Server, free_port, put_object, s3_place

pytestmark = pytest.mark.s3


@pytest.fixture
def place(s3_settings: S3Settings, s3_bucket: str) -> Place:
    return s3_place(s3_bucket, s3_settings)


class TestS3Store(ReadingRules, UploadRules, BoundedMemorySuite):
    most = 6 * PART_BYTES  # five parts, and what the client sends them in


@pytest.mark.long  # tests/registry asks for the same of a whole registry on S3
class TestS3StoreOfManyOwners(OwnershipRules, UpkeepRules):
    """The rest of the suite."""


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
        lambda: list(store.blobs()),
        lambda: store.sweep_uploads(datetime.now(UTC)),
        lambda: store.quarantine(digest),
        lambda: list(store.quarantined()),
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


def rest_of(upload: Upload, data: bytes) -> None:
    feed(upload, data)
    upload.finish()


def test_a_store_outlives_a_server_that_is_killed_and_comes_back(s3_server: S3Server) -> None:
    store, data = S3Store("bucket", "", s3_server.settings), blob(2 * PART_BYTES + 1)
    kept = put(store, b"acknowledged before the kill")
    upload = store.upload(digest_of(data), len(data))
    upload.write(0, data[: PART_BYTES - 1])

    s3_server.kill()
    with pytest.raises(StorageUnavailable):  # the next write that finds all buffers taken, or the end
        rest_of(upload, data)
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
    upload._sender.settle()
    resumed = second.upload(digest_of(data), len(data))
    assert resumed.committed == PART_BYTES
    feed(upload, data)
    upload.finish()
    feed(resumed, data)
    resumed.finish()
    upload.close()
    resumed.close()
    assert read(second, digest_of(data)) == data


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


def sent_headers(store: S3Store) -> list[dict[str, bytes]]:
    """The headers of each request to come, as they go on the wire."""
    seen: list[dict[str, bytes]] = []

    def note(request: AWSPreparedRequest, **_: object) -> None:
        seen.append(dict(request.headers))

    store._bucket._client.meta.events.register("before-send.s3", note)
    return seen


def test_every_part_and_every_put_carries_a_checksum(s3_settings: S3Settings, s3_bucket: str) -> None:
    store = S3Store(s3_bucket, "", s3_settings)
    store.probe()
    sent = sent_headers(store)
    data = blob(PART_BYTES + 1)
    put(store, data)
    put(store, b"small")
    crcs = {headers["x-amz-checksum-crc32"] for headers in sent if "x-amz-checksum-crc32" in headers}
    parts = [zlib.crc32(data[:PART_BYTES]), zlib.crc32(data[PART_BYTES:])]
    assert crcs >= {base64.b64encode(crc.to_bytes(4)) for crc in parts}
    shas = [headers["x-amz-checksum-sha256"] for headers in sent if "x-amz-checksum-sha256" in headers]
    assert shas == [base64.b64encode(hashlib.sha256(b"small").digest())]


@pytest.mark.parametrize("size", [1000, 2 * PART_BYTES + 1], ids=["small", "large"])
def test_bytes_that_change_on_the_way_to_the_server_are_refused_by_it(
    s3_settings: S3Settings, s3_bucket: str, size: int
) -> None:
    store, data = S3Store(s3_bucket, "", s3_settings), blob(size)
    digest = digest_of(data)
    store.probe()

    def flip(request: AWSPreparedRequest, **_: object) -> None:
        if request.method == "PUT" and isinstance(request.body, (bytes, bytearray)):
            request.body = flipped(bytes(request.body))

    upload = store.upload(digest, size)
    store._bucket._client.meta.events.register("before-send.s3", flip)
    with pytest.raises(StorageUnavailable, match=r"BadDigest|ContentSHA256Mismatch"):
        _finished(upload, data)
    store._bucket._client.meta.events.unregister("before-send.s3", flip)
    assert store.missing([digest]) == [digest]
    assert read(store, put(store, data)) == data


def _finished(upload: Upload, data: bytes) -> None:
    with closing(upload):
        feed(upload, data)
        upload.finish()


def test_the_next_part_is_taken_while_one_is_on_its_way(
    s3_settings: S3Settings, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, data = S3Store(s3_bucket, "", s3_settings), blob(2 * PART_BYTES + 1)
    upload = store.upload(digest_of(data), len(data))
    may_go, send = threading.Event(), store._bucket.send

    def held(*part: Any) -> Part:
        may_go.wait()
        return send(*part)

    monkeypatch.setattr(store._bucket, "send", held)
    feed(upload, data[: 2 * PART_BYTES - 1])  # would not come back, if it waited for the part
    may_go.set()
    feed(upload, data)
    upload.finish()
    upload.close()
    assert read(store, digest_of(data)) == data


def test_what_an_older_release_staged_is_swept(s3_settings: S3Settings, s3_bucket: str) -> None:
    store = S3Store(s3_bucket, "prefix", s3_settings)
    store.probe()
    for key in (f"uploads/team/sha256/{'a' * 64}", f"uploads/sha256/{'b' * 64}", "probe/left"):
        put_object(store, key, b"left")
    store._bucket.begin(f"uploads/team/sha256/{'c' * 64}")
    hour = timedelta(hours=1)
    assert store.sweep_uploads(datetime.now(UTC) - hour) == 0
    assert S3Store(s3_bucket, "other", s3_settings).sweep_uploads(datetime.now(UTC) + hour) == 0
    assert store.sweep_uploads(datetime.now(UTC) + hour) == 4
    assert store.sweep_uploads(datetime.now(UTC) + hour) == 0


def test_a_listing_goes_over_many_pages(s3_settings: S3Settings, s3_bucket: str) -> None:
    store = S3Store(s3_bucket, "", s3_settings)
    store.probe()
    store._bucket._client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 2}
    )
    digests = {put(store, blob(10, seed)) for seed in range(5)}
    assert {each.digest for each in store.blobs()} == digests
