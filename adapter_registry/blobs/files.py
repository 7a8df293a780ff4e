"""Files as the drivers use them: opened, locked, read, written and synced, with typed errors.

Owns FileBlob and the calls of the kernel around it. Files are read with pread, never mapped: a file
that somebody cuts short is an error, not the death of the process. Does not know which file is what.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapter_registry.blobs.intake import span
from lorry.errors import StorageUnavailable

# One read of a whole file while it is hashed; beside the hashing the call costs nothing.
READ_BYTES = 1 << 20


class FileBlob:
    """A visible blob, held open: it can be read to its end even where it is deleted meanwhile."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        seen = os.fstat(fd)
        self._size = seen.st_size
        self._inode = seen.st_ino

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def is_at(self, path: Path) -> bool:
        """Whether the path still leads to this very file. Raises OSError."""
        try:
            return path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def touch(self) -> None:
        """Make the file the one that was used last. Raises OSError."""
        now = time.time_ns()  # finer than the kernel's own clock for files
        os.utime(self._fd, ns=(now, now))

    def chunks(self, offset: int, limit: int, chunk: int) -> Iterator[bytes]:
        """The bytes in pieces. Raises OutOfRange, StorageUnavailable."""
        return self._read(span(self._size, offset, limit), chunk)

    def _read(self, wanted: range, chunk: int) -> Iterator[bytes]:
        at = wanted.start
        while at < wanted.stop:
            with storage("read a blob"):
                piece = os.pread(self._fd, min(chunk, wanted.stop - at), at)
            if not piece:
                raise StorageUnavailable(f"expected a blob of {self._size} bytes, its file ends at {at}")
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


@contextmanager
def storage(what: str) -> Iterator[None]:
    """An OSError inside is the store's: full, broken, not permitted, gone."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        raise StorageUnavailable(f"the blob store's file system could not {what}: {name}") from error


def size_of(path: Path) -> int | None:
    """Length of a file in bytes; None where there is none. Raises OSError."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(path: Path) -> int | None:
    """Open and lock; None where another holds it, or finished with it while this one came. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    if _try_lock(fd) and path.exists():
        return fd
    os.close(fd)
    return None


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write at a position, so that a second try after a failure overwrites the first. Raises OSError."""
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
