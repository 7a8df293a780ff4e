"""What S3 or the way to it says wrongly is a typed outage, never an empty answer or a damaged blob."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from adapter_registry.blobs.s3 import S3Store
from adapter_registry.blobs.s3_bucket import S3Settings
from lorry.errors import StorageUnavailable
from lorry.format.digest import digest_of
from tests.support.blobs import blob, put, read
from tests.support.s3_proxy import s3_proxy
from tests.support.s3_proxy_faults import Fault, Kind, Plan

DIGEST = digest_of(b"bytes")
LISTING = b"""<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Contents>
<Key>blobs/sha256/%s</Key><LastModified>%s</LastModified><Size>%s</Size></Contents></ListBucketResult>"""
QUESTIONS: list[Callable[[S3Store], object]] = [
    lambda store: list(store.blobs()),
    lambda store: list(store.quarantined()),
    lambda store: store.open(DIGEST),
    lambda store: store.progress(DIGEST),
    lambda store: store.missing([DIGEST]),
    lambda store: store.quarantine(DIGEST),
]


@contextmanager
def answering(answer: bytes) -> Iterator[S3Store]:
    """A store whose server says the same to everything, and closes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        settings = S3Settings(f"http://127.0.0.1:{server.server_address[1]}", "us-east-1", "key", "secret")
        try:
            yield S3Store("bucket", "", settings)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_that_was_cut_within_its_head_is_none(question: Callable[[S3Store], object]) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nAccept-Ranges: by") as store, pytest.raises(StorageUnavailable):
        question(store)


@pytest.mark.parametrize(("date", "size"), [(b"2026-13-01T00:00:00Z", b"5"), (b"2026-01-01T00:00:00Z", b"5x")])
def test_a_listing_with_a_number_or_a_date_that_is_none_is_a_typed_outage(date: bytes, size: bytes) -> None:
    body = LISTING % (DIGEST[7:].encode(), date, size)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(body)
    with answering(head + body) as store, pytest.raises(StorageUnavailable, match="ValueError"):
        list(store.blobs())


def test_a_marker_is_one_however_the_server_spells_its_headers() -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\n'
    for data, size in (
        (b"x-amz-meta-lorry-data", b"x-amz-meta-lorry-size"),
        (b"X-Amz-Meta-Lorry-Data", b"X-Amz-Meta-Lorry-Size"),
    ):
        marker = b"%s: data/sha256/%s..b\r\n%s: 5\r\n\r\n" % (data, DIGEST[7:].encode(), size)
        with answering(head + marker) as store:
            assert store.open(DIGEST).size == 5


@pytest.mark.s3
def test_a_blob_that_is_damaged_on_its_way_alone_is_not_put_aside(s3_settings: S3Settings, s3_bucket: str) -> None:
    data = blob(100_000)
    digest = put(S3Store(s3_bucket, "", s3_settings), data)
    with s3_proxy(s3_settings.endpoint) as proxy:
        store = S3Store(s3_bucket, "", replace(s3_settings, endpoint=proxy.endpoint))
        proxy.plans[s3_bucket] = plan = Plan(Fault(Kind.WRONG_DOWN, count=2))
        with pytest.raises(StorageUnavailable, match="other bytes each time"):
            store.quarantine(digest)
        assert plan.met == ["GetObject", "GetObject"]
        proxy.plans[s3_bucket] = Plan(Fault(Kind.WRONG_DOWN))
        with pytest.raises(StorageUnavailable, match="other bytes each time"):
            store.quarantine(digest)
        assert store.quarantine(digest) is False
        assert (list(store.quarantined()), read(store, digest)) == ([], data)
