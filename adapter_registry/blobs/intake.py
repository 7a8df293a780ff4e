"""What every driver checks alike: sizes, offsets, completeness, the digest, the span of a read.

Owns the arithmetic of an upload and of a read, so that a driver holds nothing but the way to its
storage. Does not know where the bytes go.
"""

from __future__ import annotations

from adapter_registry.blobs.protocol import MAX_BLOB_BYTES
from lorry.errors import BlobTooLarge, InvalidInput, OffsetMismatch, OutOfRange, UploadIncomplete
from lorry.format.digest import Hasher, check_digest

_PREFIX = "sha256:"


def hex_of(digest: str) -> str:
    """The 64 hexadecimal digits of a digest: safe in a path. Raises InvalidDigest."""
    return check_digest(digest).removeprefix(_PREFIX)


def check_size(size: int) -> int:
    """The size in bytes, where a store takes it. Raises InvalidInput, BlobTooLarge."""
    if size < 0:
        raise InvalidInput(f"expected the size of a blob in bytes, got {size}")
    if size > MAX_BLOB_BYTES:
        raise BlobTooLarge(f"a blob has at most {MAX_BLOB_BYTES} bytes, got {size}")
    return size


def span(size: int, offset: int, limit: int) -> range:
    """The positions that a read of a blob of `size` bytes yields; limit 0 means up to the end.

    Raises OutOfRange.
    """
    if not 0 <= offset <= size or limit < 0:
        raise OutOfRange(f"expected an offset of 0 to {size} and a limit of 0 or more, got {offset} and {limit}")
    return range(offset, min(size, offset + limit) if limit else size)


class Intake:
    """How far one upload is, and whether what came is what was announced.

    hasher: has seen the first `committed` bytes; None where they came before this process's time
    and the driver verifies in another way.
    """

    def __init__(self, digest: str, size: int, committed: int, hasher: Hasher | None) -> None:
        self.digest = digest
        self.size = size
        self.committed = committed
        self._hasher = hasher

    def admit(self, offset: int, data: bytes | memoryview) -> None:
        """Check a chunk before it is written. Raises OffsetMismatch, BlobTooLarge."""
        if offset != self.committed:
            raise OffsetMismatch(
                f"expected a chunk at offset {self.committed}, got one at {offset}",
                committed_bytes=str(self.committed),
            )
        if offset + len(data) > self.size:
            raise BlobTooLarge(f"expected {self.size} bytes, got at least {offset + len(data)}")

    def took(self, data: bytes | memoryview) -> None:
        """Count and hash a chunk that was written."""
        if self._hasher is not None:
            self._hasher.update(data)
        self.committed += len(data)

    def require_all(self) -> None:
        """Raise UploadIncomplete where bytes are still to come."""
        if self.committed != self.size:
            raise UploadIncomplete(
                f"expected {self.size} bytes before the finish, got {self.committed}",
                committed_bytes=str(self.committed),
            )

    def verify(self) -> bool:
        """Compare the digest; False where not all bytes were seen here. Raises DigestMismatch."""
        if self._hasher is None:
            return False
        self._hasher.verify(self.digest)
        return True


class AlreadyVisible:
    """The Upload of a blob that the store has: nothing that comes is looked at."""

    existed = True

    def __init__(self, size: int) -> None:
        self.committed = size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Drop the chunk: the stored bytes were verified, these were not."""

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is held."""
