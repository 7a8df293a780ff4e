"""A blob on its way into a folder: one temporary file, hashed as it grows.

Owns the order of durability: verify, fsync of the file, rename, fsync of the folder, before an upload
is acknowledged. Does not know how a temporary file is found again.
"""

from __future__ import annotations

import os
from pathlib import Path

from adapter_registry.blobs.files import READ_BYTES, storage, sync_folder, write_all
from adapter_registry.blobs.intake import Intake
from adapter_registry.blobs.sums import Sums


class FileUpload:
    """One blob on its way in: a temporary file that this object alone may write."""

    existed = False

    def __init__(self, temporary: Path, fd: int, target: Path, digest: str, size: int) -> None:
        """Take over the locked file and hash what it holds. Raises OSError."""
        self._temporary = temporary
        self._target = target
        self._fd = fd
        try:
            sums, kept = _sums_of(fd)
            if kept > size:  # left by somebody who announced more: not these bytes
                os.ftruncate(fd, 0)
                sums, kept = Sums(), 0
        except OSError:
            os.close(fd)
            raise
        self._intake = Intake(digest, size, kept, sums)

    @property
    def committed(self) -> int:
        """Bytes taken so far."""
        return self._intake.committed

    @property
    def blocks(self) -> bytes:
        """Hashes of the blocks."""
        return self._intake.blocks

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Append a chunk. Raises OffsetMismatch, BlobTooLarge, StorageUnavailable."""
        self._intake.admit(offset, data)
        with storage("write a chunk"):
            write_all(self._fd, data, offset)
        self._intake.took(data)

    def finish(self) -> None:
        """Verify, sync, rename, sync the folder.

        Raises UploadIncomplete, DigestMismatch, StorageUnavailable. A file whose bytes are wrong, or
        whose fsync failed (the kernel may have dropped the pages and say nothing the next time), is
        thrown away.
        """
        self._intake.require_all()
        with storage("make a blob durable"):
            try:
                self._intake.verify()
                # The last chunk may have come days ago; the blob is as old as its visibility.
                os.utime(self._fd)
                os.fsync(self._fd)
            except BaseException:
                self._temporary.unlink(missing_ok=True)
                raise
            self._temporary.rename(self._target)
            sync_folder(self._target.parent)

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._fd)


def _sums_of(fd: int) -> tuple[Sums, int]:
    """Sums and length of what the file holds."""
    sums, at = Sums(), 0
    while piece := os.pread(fd, READ_BYTES, at):
        sums.update(piece)
        at += len(piece)
    return sums, at
