"""Verified copies of blobs in a folder, within a budget of bytes.

Owns `<hex>` (a whole blob) and `<hex>.<token>` (one on its way in, locked by its writer), and which of
them goes when room is needed: the one that was not read for the longest time. The folder is all its
state, so it survives a restart, may be shared by processes and emptied by hand. A broken disk makes it
a cache that has nothing, never an error. Does not know where blobs come from.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adapter_registry.blobs.files import READ_BYTES, FileBlob, lock, storage, write_all
from adapter_registry.blobs.intake import digest_named, hex_of
from adapter_registry.blobs.sums import is_sound
from lorry.errors import DigestMismatch, StorageUnavailable
from lorry.format.digest import Hasher

_log = logging.getLogger(__name__)


class FileCache:
    """The folder. Every method may be called from any thread."""

    def __init__(self, folder: Path, budget: int) -> None:
        """Create the folder, and make what lies in it fit the budget. Raises StorageUnavailable."""
        self._folder = folder
        self._budget = budget
        self._lock = threading.Lock()
        self._filling: set[str] = set()
        # Digests whose files this process has hashed. Others may have come through a loss of power.
        self._verified: set[str] = set()
        with storage(f"create {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                self._make_room(0)

    def open(self, digest: str, size: int) -> FileBlob | None:
        """The kept copy, of that size and verified, to be read to its end even if it is evicted; None if none."""
        try:
            blob = FileBlob(os.open(self._folder / hex_of(digest), os.O_RDONLY))
        except OSError:
            return None
        if self._is_right(blob, digest, size):
            return blob
        blob.close()
        self.drop(digest)
        return None

    def _is_right(self, blob: FileBlob, digest: str, size: int) -> bool:
        if blob.size != size:
            return False
        try:
            if digest not in self._verified and not is_sound(digest, blob.chunks(0, 0, READ_BYTES)):
                return False
            blob.touch()
        except (OSError, StorageUnavailable):
            return False
        self._verified.add(digest)
        return True

    def fill(self, digest: str, size: int) -> Filling | None:
        """Room for a copy; None where another fills it already, or there is no room."""
        with self._lock:
            if digest in self._filling:
                return None
            self._filling.add(digest)
        try:
            reserved = self._reserve(digest, size)
        except OSError as error:
            _log.warning("the blob cache cannot be written: %s", error.strerror)
            reserved = None
        if reserved is None:
            self._filling.discard(digest)
            return None
        return Filling(self, digest, size, *reserved)

    def drop(self, digest: str) -> None:
        """Forget a copy, if there is one."""
        self._verified.discard(digest)
        with suppress(OSError):
            (self._folder / hex_of(digest)).unlink()

    def filled(self, digest: str, temporary: Path) -> None:
        """A verified copy is whole. Raises OSError."""
        temporary.rename(self._folder / hex_of(digest))
        self._verified.add(digest)

    def gave_up(self, digest: str) -> None:
        """Nobody fills the copy any more."""
        self._filling.discard(digest)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread of all processes counts the bytes and makes room. Raises OSError."""
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _reserve(self, digest: str, size: int) -> tuple[Path, int] | None:
        """A locked file that has its full length from the start, so that its bytes count. Raises OSError."""
        path = self._folder / f"{hex_of(digest)}.{uuid.uuid4().hex}"
        with self._alone():
            if not self._make_room(size):
                return None
            path.touch(0o600, exist_ok=False)
            fd = lock(path)
            if fd is None:
                return None
            os.truncate(fd, size)
            return path, fd

    def _make_room(self, size: int) -> bool:
        """Evict what was not read for long until so many bytes are free; False where they cannot be."""
        kept, reserved = self._look()
        if reserved + size > self._budget:
            return False
        used = reserved + size + sum(length for _, length, _ in kept)
        for _, length, path in sorted(kept):
            if used <= self._budget:
                break
            self.drop(f"sha256:{path.name}")
            used -= length
        return True

    def _look(self) -> tuple[list[tuple[int, int, Path]], int]:
        """Kept copies as (last read, length, path), and the bytes of those on their way in."""
        kept, reserved = [], 0
        for entry in os.scandir(self._folder):
            name, _, token = entry.name.partition(".")
            if digest_named(name) is None:
                continue  # not ours
            path = self._folder / entry.name
            if token and _removed(path):
                continue
            with suppress(FileNotFoundError):
                seen = entry.stat()
                if token:
                    reserved += seen.st_size
                else:
                    kept.append((seen.st_mtime_ns, seen.st_size, path))
        return kept, reserved


class Filling:
    """A copy on its way in, used by one thread at a time; closed exactly once. Nothing is raised."""

    def __init__(self, cache: FileCache, digest: str, size: int, path: Path, fd: int) -> None:
        self._cache = cache
        self._digest = digest
        self._size = size
        self._path = path
        self._fd = fd
        self._at = 0
        self._hasher = Hasher()
        self._failed = False

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes; the last ones make the copy whole, if all of them are those of the digest."""
        if self._failed:
            return
        try:
            write_all(self._fd, data, self._at)
            self._hasher.update(data)
            self._at += len(data)
            if self._at == self._size:
                self._hasher.verify(self._digest)
                self._cache.filled(self._digest, self._path)
        except (OSError, DigestMismatch) as error:
            _log.warning("a blob was not kept in the cache: %s", error)
            self._failed = True

    def close(self) -> None:
        """Let go; what is not whole is thrown away."""
        with suppress(OSError):
            self._path.unlink()
        os.close(self._fd)
        self._cache.gave_up(self._digest)


def _removed(path: Path) -> bool:
    """Whether the file was left by a process that died, and is gone now. Raises OSError."""
    fd = lock(path)
    if fd is None:
        return False
    path.unlink(missing_ok=True)
    os.close(fd)
    return True
