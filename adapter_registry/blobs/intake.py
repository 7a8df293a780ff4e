"""What every driver checks alike: sizes, owners, offsets, completeness, the digest, the span of a read.

Owns the arithmetic of an upload and of a read, so that a driver holds nothing but the way to its
storage. Does not know where the bytes go.
"""

from __future__ import annotations

from collections.abc import Callable

from adapter_registry.blobs.protocol import MAX_BLOB_BYTES
from adapter_registry.blobs.sums import Sums
from lorry.errors import BlobTooLarge, InvalidInput, OffsetMismatch, OutOfRange, UploadIncomplete
from lorry.format.digest import check_digest, is_digest
from lorry.format.reference import check_name

_PREFIX = "sha256:"


def hex_of(digest: str) -> str:
    """The 64 hexadecimal digits of a digest: safe in a path. Raises InvalidDigest."""
    return check_digest(digest).removeprefix(_PREFIX)


def digest_named(name: str) -> str | None:
    """The digest whose hexadecimal digits a file or an object is named by; None where it is another thing."""
    digest = _PREFIX + name
    return digest if is_digest(digest) else None


def check_owner(owner: str) -> str:
    """The owner of an upload: a name, safe in a path, or "". Raises InvalidName."""
    return check_name(owner, "owner of an upload") if owner else owner


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

    sums: have seen the first `committed` bytes; None where they came before this process's time
    and the driver verifies in another way.
    """

    def __init__(self, digest: str, size: int, committed: int, sums: Sums | None) -> None:
        self.digest = digest
        self.size = size
        self.committed = committed
        self.sums = sums

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
        if self.sums is not None:
            self.sums.update(data)
        self.committed += len(data)

    def require_all(self) -> None:
        """Raise UploadIncomplete where bytes are still to come."""
        if self.committed != self.size:
            raise UploadIncomplete(
                f"expected {self.size} bytes before the finish, got {self.committed}",
                committed_bytes=str(self.committed),
            )

    def verify(self) -> None:
        """Compare the digest of what was seen here, if all was. Raises DigestMismatch."""
        if self.sums is not None:
            self.sums.verify(self.digest)

    @property
    def blocks(self) -> bytes:
        """Hashes of the blocks; empty where not all bytes were seen."""
        return b"" if self.sums is None else self.sums.blocks


class HeldUpload:
    """The Upload of a blob that is held in memory until it is whole.

    data: what an earlier one left; this one alone holds it now. store: puts the verified bytes where
    they become visible. keep: takes what came where no finish did.
    """

    existed = False

    def __init__(
        self,
        digest: str,
        size: int,
        data: bytearray,
        *,
        store: Callable[[bytearray], None],
        keep: Callable[[bytearray], None],
    ) -> None:
        sums = Sums()
        sums.update(bytes(data))
        self._intake = Intake(digest, size, len(data), sums)
        self._data = data
        self._store = store
        self._keep = keep

    @property
    def committed(self) -> int:
        """Bytes taken so far."""
        return self._intake.committed

    @property
    def blocks(self) -> bytes:
        """Hashes of the blocks."""
        return self._intake.blocks

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Append a chunk. Raises OffsetMismatch, BlobTooLarge."""
        self._intake.admit(offset, data)
        self._data += data
        self._intake.took(data)

    def finish(self) -> None:
        """Verify and store. Raises UploadIncomplete, DigestMismatch, and what storing raises."""
        self._intake.require_all()
        data, self._data = self._data, bytearray()
        self._intake.verify()
        self._store(data)

    def close(self) -> None:
        """Let go; what came and was not finished is kept, where the driver can."""
        if self._data:
            self._keep(self._data)


class AlreadyVisible:
    """The Upload of a blob that the store has: nothing that comes is looked at."""

    existed = True
    blocks = b""

    def __init__(self, size: int) -> None:
        self.committed = size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Drop the chunk: the stored bytes were verified, these were not."""

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is held."""
