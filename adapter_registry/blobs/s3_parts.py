"""The parts of one multipart upload, sent while the next one comes.

Owns the two buffers of an upload, all that it ever holds of a blob: one fills, the other is on its way
in a thread of the upload's own. Does not know what the parts become.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from adapter_registry.blobs.s3_bucket import Bucket, Part

# The client's and AWS's usual part; 5 GiB are 640 of them, S3 takes 10,000.
PART_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Staged:
    """A multipart upload under its staging key. parts: the whole ones that S3 has, from the first on."""

    key: str
    upload: str
    parts: list[Part]


class PartSender:
    """Cuts bytes into parts and sends them in order, one at a time. A failure shows at the next call."""

    def __init__(self, bucket: Bucket, staged: Staged) -> None:
        self._bucket = bucket
        self._staged = staged
        self._parts = list(staged.parts)
        self._thread = ThreadPoolExecutor(1, "s3-part")
        self._sending: Future[Part] | None = None
        self._filling, self._spare = bytearray(PART_BYTES), bytearray(PART_BYTES)
        self._filled = 0

    def add(self, data: bytes | memoryview) -> None:
        """Take bytes; waits only where both buffers are full. Raises StorageUnavailable."""
        rest = memoryview(data)
        while rest:
            piece = rest[: PART_BYTES - self._filled]
            rest = rest[len(piece) :]
            with memoryview(self._filling) as buffer:
                buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            if self._filled == PART_BYTES:
                self._send()

    def _send(self) -> None:
        self.settle()
        number = len(self._parts) + 1
        self._sending = self._thread.submit(
            self._bucket.send, self._staged.key, self._staged.upload, number, self._filling
        )
        self._filling, self._spare = self._spare, self._filling
        self._filled = 0

    def settle(self) -> None:
        """Wait for the part that is on its way. Raises StorageUnavailable."""
        if self._sending is not None:
            sending, self._sending = self._sending, None
            self._parts.append(sending.result())

    def complete(self) -> str:
        """Send what is left, make one object of the parts, and say its etag. Raises StorageUnavailable."""
        if self._filled:
            del self._filling[self._filled :]
            self._send()
        self.settle()
        return self._bucket.complete(self._staged.key, self._staged.upload, self._parts)

    def close(self) -> None:
        """Wait for the part that is on its way, so that it counts or does not, and end the thread."""
        self._thread.shutdown()
