"""Blobs as files: `blobs/sha256/ab/<hex>` when visible, `uploads/<hex>.<token>` before.

Owns durability (fsync of the file, rename, fsync of the folder, in this order, before an upload is
acknowledged) and who writes which temporary file: the one that holds its flock, across threads and
processes; the kernel lets go of it for a process that died. Files are read with pread, never mapped:
a file that somebody cuts short is an error, not the death of the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from adapter_registry.blobs.intake import AlreadyVisible, Intake, check_size, hex_of, span
from adapter_registry.blobs.protocol import Progress, Upload
from lorry.errors import BlobNotFound, StorageUnavailable
from lorry.format.digest import Hasher

# One read of a kept file while it is hashed again; beside the hashing the call costs nothing.
_CHUNK = 1 << 20
# Blobs are spread over folders by the first byte of their digest, so that none grows too long.
_FOLDERS = 256


class FileBlob:
    """A visible blob, held open: it can be read to its end even where it is deleted meanwhile."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def chunks(self, offset: int, limit: int, chunk: int) -> Iterator[bytes]:
        """The bytes in pieces. Raises OutOfRange, StorageUnavailable."""
        return self._read(span(self._size, offset, limit), chunk)

    def _read(self, wanted: range, chunk: int) -> Iterator[bytes]:
        at = wanted.start
        while at < wanted.stop:
            with _storage("read a blob"):
                piece = os.pread(self._fd, min(chunk, wanted.stop - at), at)
            if not piece:
                raise StorageUnavailable(f"expected a blob of {self._size} bytes, its file ends at {at}")
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class FileStore:
    """A BlobStore below one folder. Several processes may use the same folder."""

    def __init__(self, root: Path) -> None:
        """Create what is missing of the folders. Raises StorageUnavailable."""
        self._blobs = root / "blobs" / "sha256"
        self._uploads = root / "uploads"
        with _storage(f"create {root}"):
            self._create_folders(root)

    def _create_folders(self, root: Path) -> None:
        """All at once and made durable, so that the end of an upload has one folder to sync."""
        if not root.exists():
            root.mkdir(parents=True, exist_ok=True)
            _sync_folder(root.absolute().parent)
        self._uploads.mkdir(exist_ok=True)
        for number in range(_FOLDERS):
            (self._blobs / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        for folder in (self._blobs, self._blobs.parent, root):
            _sync_folder(folder)

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not visible, in order. Raises InvalidDigest, StorageUnavailable."""
        return [digest for digest in digests if self._visible_size(digest) is None]

    def progress(self, digest: str) -> Progress:
        """How far an upload came. Raises InvalidDigest, StorageUnavailable."""
        visible = self._visible_size(digest)
        if visible is not None:
            return Progress(visible, complete=True)
        sizes = [size for path in self._kept(digest) if (size := _size(path)) is not None]
        return Progress(max(sizes, default=0), complete=False)

    def upload(self, digest: str, size: int) -> Upload:
        """Begin or go on. Raises InvalidDigest, BlobTooLarge, StorageUnavailable."""
        check_size(size)
        target = self._path(digest)
        visible = self._visible_size(digest)
        if visible is not None:
            with _storage("sync a blob"):
                # Whoever made it visible may not have come to this step yet.
                _sync_folder(target.parent)
            return AlreadyVisible(visible)
        with _storage("begin an upload"):
            temporary, fd = self._take(digest)
            return _FileUpload(temporary, fd, target, digest, size)

    def open(self, digest: str) -> FileBlob:
        """Open a visible blob. Raises InvalidDigest, BlobNotFound, StorageUnavailable."""
        with _storage("open a blob"):
            try:
                return FileBlob(os.open(self._path(digest), os.O_RDONLY))
            except FileNotFoundError:
                raise BlobNotFound(f"no blob {digest}") from None

    def delete(self, digest: str) -> None:
        """Remove a blob, if it is there. Raises InvalidDigest, StorageUnavailable."""
        path = self._path(digest)
        with _storage("delete a blob"), suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def probe(self) -> None:
        """Write, sync, read and remove a file. Raises StorageUnavailable."""
        path, written = self._uploads / f"probe.{uuid.uuid4().hex}", b"probe"
        with _storage("write and read a probe"):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    _write_all(fd, written, 0)
                    os.fsync(fd)
                    read = os.pread(fd, len(written), 0)
                finally:
                    os.close(fd)
            finally:
                path.unlink(missing_ok=True)
        if read != written:
            raise StorageUnavailable(f"wrote {written!r} as a probe, read {read!r}")

    def _path(self, digest: str) -> Path:
        name = hex_of(digest)
        return self._blobs / name[:2] / name

    def _visible_size(self, digest: str) -> int | None:
        path = self._path(digest)
        with _storage("look for a blob"):
            return _size(path)

    def _kept(self, digest: str) -> list[Path]:
        with _storage("look for uploads"):
            return list(self._uploads.glob(f"{hex_of(digest)}.*"))

    def _take(self, digest: str) -> tuple[Path, int]:
        """The longest temporary file of the digest that nobody writes, or a new one; locked."""
        candidates = sorted(self._kept(digest), key=lambda path: _size(path) or 0, reverse=True)
        while True:
            for path in candidates:
                fd = _lock(path)
                if fd is not None:
                    return path, fd
            fresh = self._uploads / f"{hex_of(digest)}.{uuid.uuid4().hex}"
            fresh.touch(0o600, exist_ok=False)
            candidates = [fresh]


class _FileUpload:
    """One blob on its way in: a temporary file that this object alone may write."""

    existed = False

    def __init__(self, temporary: Path, fd: int, target: Path, digest: str, size: int) -> None:
        """Take over the locked file and hash what it holds. Raises OSError."""
        self._temporary = temporary
        self._target = target
        self._fd = fd
        try:
            hasher, kept = _hash(fd)
            if kept > size:  # left by somebody who announced more: not these bytes
                os.ftruncate(fd, 0)
                hasher, kept = Hasher(), 0
        except OSError:
            os.close(fd)
            raise
        self._intake = Intake(digest, size, kept, hasher)

    @property
    def committed(self) -> int:
        """Bytes taken so far."""
        return self._intake.committed

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Append a chunk. Raises OffsetMismatch, BlobTooLarge, StorageUnavailable."""
        self._intake.admit(offset, data)
        with _storage("write a chunk"):
            _write_all(self._fd, data, offset)
        self._intake.took(data)

    def finish(self) -> None:
        """Verify, sync, rename, sync the folder.

        Raises UploadIncomplete, DigestMismatch, StorageUnavailable. A file whose bytes are wrong, or
        whose fsync failed (the kernel may have dropped the pages and say nothing the next time), is
        thrown away.
        """
        self._intake.require_all()
        with _storage("make a blob durable"):
            try:
                self._intake.verify()
                os.fsync(self._fd)
            except BaseException:
                self._temporary.unlink(missing_ok=True)
                raise
            self._temporary.rename(self._target)
            _sync_folder(self._target.parent)

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._fd)


@contextmanager
def _storage(what: str) -> Iterator[None]:
    """An OSError inside is the store's: full, broken, not permitted, gone."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        raise StorageUnavailable(f"the blob store's file system could not {what}: {name}") from error


def _size(path: Path) -> int | None:
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


def _lock(path: Path) -> int | None:
    """Open and lock; None where another holds it, or finished with it while this one came."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    if _try_lock(fd) and path.exists():
        return fd
    os.close(fd)
    return None


def _hash(fd: int) -> tuple[Hasher, int]:
    """Hasher and length of what the file holds."""
    hasher, at = Hasher(), 0
    while piece := os.pread(fd, _CHUNK, at):
        hasher.update(piece)
        at += len(piece)
    return hasher, at


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write at a position, so that a second try after a failure overwrites the first."""
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
