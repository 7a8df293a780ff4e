"""The parts of one multipart upload, sent while the next ones come.

Owns the buffers of an upload, all that it ever holds of a blob: one fills, the others are on their way,
each in a thread of the upload's own. Two are its own; more are lent out of what all uploads of a
process share, so that many uploads at once take no more memory than that. Does not know what the parts become.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Semaphore

from adapter_registry.blobs.s3_bucket import Bucket, Part

# The client's and AWS's usual part; 5 GiB are 640 of them, S3 takes 10,000.
PART_BYTES = 8 << 20
# One connection to AWS takes some 80 MB/s; four on their way and one that fills keep up with a gigabit and more.
_OWN, _MOST = 2, 5
# 64 MiB, beside 16 MiB for each upload: the connections that `s3_bucket` keeps open would take no more at once.
_LENT = 8


class Lender:
    """The buffers that the uploads of a process share, counted."""

    def __init__(self) -> None:
        self._left = Semaphore(_LENT)

    def lend(self) -> bool:
        """Whether one more is to be had."""
        return self._left.acquire(blocking=False)

    def take_back(self, count: int) -> None:
        """So many are not used any more."""
        if count:
            self._left.release(count)


@dataclass(frozen=True, slots=True)
class Staged:
    """A multipart upload under its staging key. parts: the whole ones that S3 has, from the first on."""

    key: str
    upload: str
    parts: list[Part]


class PartSender:
    """Cuts bytes into parts and sends some at a time. A failure shows at the next call."""

    def __init__(self, bucket: Bucket, staged: Staged, lender: Lender) -> None:
        self._bucket = bucket
        self._staged = staged
        self._lender = lender
        self._parts = list(staged.parts)
        self._threads = ThreadPoolExecutor(_MOST - 1, "s3-part")
        self._sending: deque[tuple[Future[Part], bytearray]] = deque()
        self._filling = bytearray(PART_BYTES)
        self._buffers = 1
        self._filled = 0

    def add(self, data: bytes | memoryview) -> None:
        """Take bytes; waits only where all buffers are full. Raises StorageUnavailable."""
        rest = memoryview(data)
        while rest:
            piece = rest[: PART_BYTES - self._filled]
            rest = rest[len(piece) :]
            with memoryview(self._filling) as buffer:
                buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            if self._filled == PART_BYTES:
                self._send()
                self._filling, self._filled = self._free_buffer(), 0

    def _send(self) -> None:
        number = len(self._parts) + len(self._sending) + 1
        sending = self._threads.submit(self._bucket.send, self._staged.key, self._staged.upload, number, self._filling)
        self._sending.append((sending, self._filling))

    def _free_buffer(self) -> bytearray:
        """That of a part which has arrived, or one more, or that of the oldest part once it has."""
        if self._sending[0][0].done():
            return self._settle_first()
        if self._buffers < _OWN or (self._buffers < _MOST and self._lender.lend()):
            self._buffers += 1
            return bytearray(PART_BYTES)
        return self._settle_first()

    def _settle_first(self) -> bytearray:
        sending, buffer = self._sending.popleft()
        self._parts.append(sending.result())
        return buffer

    def settle(self) -> None:
        """Wait for the parts that are on their way. Raises StorageUnavailable."""
        while self._sending:
            self._settle_first()

    def complete(self) -> str:
        """Send what is left, make one object of the parts, and say its etag. Raises StorageUnavailable."""
        if self._filled:
            del self._filling[self._filled :]
            self._filled = 0
            self._send()
        self.settle()
        return self._bucket.complete(self._staged.key, self._staged.upload, self._parts)

    def close(self) -> None:
        """Wait for the parts that are on their way, so that they count or do not, and end the threads."""
        self._threads.shutdown()
        self._lender.take_back(max(0, self._buffers - _OWN))
        self._buffers = 0
