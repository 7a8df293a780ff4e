"""How many parts of an upload travel at once, and that many uploads share what they hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_registry.blobs.s3_bucket import Part
from adapter_registry.blobs.s3_parts import PART_BYTES, Lender, PartSender, Staged
from lorry.errors import StorageUnavailable

_LIMIT = 10.0


class SlowBucket:
    """S3 that answers when it is told to."""

    def __init__(self) -> None:
        self.arrived: list[int] = []
        self.answering = threading.Event()
        self.refused = 0

    def send(self, _key: str, _upload: str, number: int, data: bytearray) -> Part:
        self.arrived.append(number)
        assert self.answering.wait(_LIMIT)
        if number == self.refused:
            raise StorageUnavailable("refused")
        return Part(number, f"etag-{data[0]}", len(data))

    def complete(self, key: str, upload: str, parts: list[Part]) -> str:
        return " ".join([f"{key}/{upload}:", *(f"{part.number}={part.etag}" for part in parts)])


@pytest.fixture
def bucket() -> Iterator[SlowBucket]:
    bucket = SlowBucket()
    yield bucket
    bucket.answering.set()


def a_sender(bucket: SlowBucket, lender: Lender) -> PartSender:
    return PartSender(bucket, Staged("key", "upload", []), lender)  # type: ignore[arg-type]


def fill(sender: PartSender, parts: int) -> None:
    for number in range(1, parts + 1):
        sender.add(bytes([number]) * PART_BYTES)


def wait_for(bucket: SlowBucket, parts: int) -> None:
    limit = time.monotonic() + _LIMIT
    while len(bucket.arrived) < parts:
        assert time.monotonic() < limit, bucket.arrived
        time.sleep(0.002)


def test_four_parts_travel_while_the_fifth_fills_and_they_are_completed_in_order(bucket: SlowBucket) -> None:
    sender = a_sender(bucket, Lender())
    with ThreadPoolExecutor(1) as filling:
        done = filling.submit(fill, sender, 6)
        wait_for(bucket, 4)
        assert not done.done()
        assert sorted(bucket.arrived) == [1, 2, 3, 4]
        bucket.answering.set()
        done.result()
    sender.add(b"\x07")
    assert sender.complete() == " ".join(["key/upload:", *(f"{number}=etag-{number}" for number in range(1, 8))])
    sender.close()


def test_many_uploads_at_once_have_two_buffers_each_beside_those_that_they_share(bucket: SlowBucket) -> None:
    lender = Lender()
    while lender.lend():
        pass
    sender = a_sender(bucket, lender)
    with ThreadPoolExecutor(1) as filling:
        done = filling.submit(fill, sender, 3)
        wait_for(bucket, 2)
        with pytest.raises(TimeoutError):  # a third buffer would take the rest within milliseconds
            done.result(0.3)
        assert sorted(bucket.arrived) == [1, 2]
        bucket.answering.set()
        done.result()
    sender.close()
    assert not lender.lend()


def test_what_was_lent_comes_back_with_the_end_of_an_upload(bucket: SlowBucket) -> None:
    lender = Lender()
    sender = a_sender(bucket, lender)
    bucket.answering.set()
    fill(sender, 8)
    sender.close()
    count = 0
    while lender.lend():
        count += 1
    assert count == 8


def test_a_part_that_is_refused_shows_at_a_later_call(bucket: SlowBucket) -> None:
    bucket.refused = 2
    bucket.answering.set()
    sender = a_sender(bucket, Lender())
    with pytest.raises(StorageUnavailable, match="refused"):
        fill(sender, 10)
    sender.close()
