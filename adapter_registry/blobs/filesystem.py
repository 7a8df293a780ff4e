"""Blobs as files: `blobs/sha256/ab/<hex>` when visible, `uploads/[<owner>/]<hex>.<token>` before.

Owns where files lie and who writes which temporary file: the one that holds its flock, across threads
and processes; the kernel lets go of it for a process that died. A damaged blob lies under
`quarantine/<hex>`. Does not know the order that makes an upload durable.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from adapter_registry.blobs.file_upload import FileUpload
from adapter_registry.blobs.files import READ_BYTES, FileBlob, lock, size_of, storage, sync_folder, write_all
from adapter_registry.blobs.intake import AlreadyVisible, check_owner, check_size, digest_named, hex_of
from adapter_registry.blobs.protocol import Progress, Stored, Upload
from adapter_registry.blobs.sums import is_sound
from lorry.errors import BlobNotFound, StorageUnavailable

# Blobs are spread over folders by the first byte of their digest, so that none grows too long.
_FOLDERS = 256


class FileStore:
    """A BlobStore below one folder. Several processes may use the same folder."""

    def __init__(self, root: Path) -> None:
        """Create what is missing of the folders. Raises StorageUnavailable."""
        self._blobs = root / "blobs" / "sha256"
        self._uploads = root / "uploads"
        self._quarantine = root / "quarantine"
        with storage(f"create {root}"):
            self._create_folders(root)

    def _create_folders(self, root: Path) -> None:
        """All at once and made durable, so that the end of an upload has one folder to sync."""
        if not root.exists():
            root.mkdir(parents=True, exist_ok=True)
            sync_folder(root.absolute().parent)
        self._uploads.mkdir(exist_ok=True)
        self._quarantine.mkdir(exist_ok=True)
        for number in range(_FOLDERS):
            (self._blobs / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        for folder in (self._blobs, self._blobs.parent, root):
            sync_folder(folder)

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not visible, in order. Raises InvalidDigest, StorageUnavailable."""
        return [digest for digest in digests if self._visible_size(digest) is None]

    def progress(self, digest: str, owner: str = "", *, hidden: bool = False) -> Progress:
        """How far the owner's upload came. Raises InvalidDigest, InvalidName, StorageUnavailable."""
        visible = None if hidden else self._visible_size(digest)
        if visible is not None:
            return Progress(visible, complete=True)
        return Progress(max(self._kept(digest, owner).values(), default=0), complete=False)

    def upload(self, digest: str, size: int, owner: str = "", *, hidden: bool = False) -> Upload:
        """Begin or go on. Raises InvalidDigest, InvalidName, InvalidInput, BlobTooLarge, StorageUnavailable."""
        check_size(size)
        check_owner(owner)
        target = self.path_of(digest)
        visible = None if hidden else self._visible_size(digest)
        if visible is not None:
            with storage("sync a blob"):
                # Whoever made it visible may not have come to this step yet.
                sync_folder(target.parent)
            return AlreadyVisible(visible)
        with storage("begin an upload"):
            temporary, fd = self._take(digest, owner)
            return FileUpload(temporary, fd, target, digest, size)

    def open(self, digest: str) -> FileBlob:
        """Open a visible blob. Raises InvalidDigest, BlobNotFound, StorageUnavailable."""
        with storage("open a blob"):
            try:
                return FileBlob(os.open(self.path_of(digest), os.O_RDONLY))
            except FileNotFoundError:
                raise BlobNotFound(f"no blob {digest}") from None

    def delete(self, digest: str) -> None:
        """Remove a blob, if it is there. Raises InvalidDigest, StorageUnavailable."""
        path = self.path_of(digest)
        with storage("delete a blob"), suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def blobs(self) -> Iterator[Stored]:
        """Every visible blob, folder after folder. Raises StorageUnavailable."""
        for number in range(_FOLDERS):
            with storage("list blobs"):
                found = list(_listed(self._blobs / f"{number:02x}"))
            yield from found

    def sweep_uploads(self, before: datetime, *, dry_run: bool = False) -> int:
        """Remove temporary files that nobody holds and nobody wrote to since then. Raises StorageUnavailable."""
        with storage("sweep uploads"):
            return sum(_sweep(path, before.timestamp(), dry_run=dry_run) for path in self._temporary_files())

    def _temporary_files(self) -> Iterator[Path]:
        for path in self._uploads.iterdir():
            if path.is_dir():
                yield from path.iterdir()
            else:
                yield path

    def quarantine(self, digest: str) -> bool:
        """Move a damaged blob to `quarantine/`. Raises InvalidDigest, StorageUnavailable."""
        path = self.path_of(digest)
        try:
            blob = self.open(digest)
        except BlobNotFound:
            return False
        with closing(blob), storage("put a blob into quarantine"):
            # Another may have put it there and a sound one in its place, while this one was hashed.
            if is_sound(digest, blob.chunks(0, 0, READ_BYTES)) or not blob.is_at(path):
                return False
            blob.touch()  # when it was put aside
            aside = self._quarantine / path.name
            path.rename(aside)
            if not blob.is_at(aside):  # a sound one came in between, and was acknowledged perhaps
                aside.rename(path)
                return False
            sync_folder(self._quarantine)
            sync_folder(path.parent)
        return True

    def quarantined(self) -> Iterator[Stored]:
        """The damaged blobs. Raises StorageUnavailable."""
        with storage("list the quarantine"):
            return iter(list(_listed(self._quarantine)))

    def discard(self, digest: str) -> None:
        """Remove a damaged blob, if it is there. Raises InvalidDigest, StorageUnavailable."""
        path = self._quarantine / hex_of(digest)
        with storage("empty the quarantine"):
            path.unlink(missing_ok=True)

    def probe(self) -> None:
        """Write, sync, read and remove a file. Raises StorageUnavailable."""
        path, written = self._uploads / f"probe.{uuid.uuid4().hex}", b"probe"
        with storage("write and read a probe"):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    write_all(fd, written, 0)
                    os.fsync(fd)
                    read = os.pread(fd, len(written), 0)
                finally:
                    os.close(fd)
            finally:
                path.unlink(missing_ok=True)
        if read != written:
            raise StorageUnavailable(f"wrote {written!r} as a probe, read {read!r}")

    def path_of(self, digest: str) -> Path:
        """The file that a visible blob is, for whoever copies files. Raises InvalidDigest."""
        name = hex_of(digest)
        return self._blobs / name[:2] / name

    def _visible_size(self, digest: str) -> int | None:
        path = self.path_of(digest)
        with storage("look for a blob"):
            return size_of(path)

    def _kept(self, digest: str, owner: str) -> dict[Path, int]:
        """The owner's temporary files of the digest and their lengths."""
        folder = self._uploads / check_owner(owner)
        with storage("look for uploads"):
            paths = folder.glob(f"{hex_of(digest)}.*")
            return {path: length for path in paths if (length := size_of(path)) is not None}

    def _take(self, digest: str, owner: str) -> tuple[Path, int]:
        """The longest temporary file of the owner's that nobody writes, or a new one; locked."""
        kept = self._kept(digest, owner)
        candidates = sorted(kept, key=kept.__getitem__, reverse=True)
        folder = self._uploads / owner
        if owner:
            folder.mkdir(exist_ok=True)
        while True:
            for path in candidates:
                fd = lock(path)
                if fd is not None:
                    return path, fd
            fresh = folder / f"{hex_of(digest)}.{uuid.uuid4().hex}"
            fresh.touch(0o600, exist_ok=False)
            candidates = [fresh]


def _listed(folder: Path) -> Iterator[Stored]:
    """The blobs in one folder. Raises OSError."""
    for entry in os.scandir(folder):
        digest = digest_named(entry.name)
        with suppress(FileNotFoundError):  # deleted since it was listed
            if digest is not None:
                seen = entry.stat()
                yield Stored(digest, seen.st_size, datetime.fromtimestamp(seen.st_mtime, UTC))


def _sweep(path: Path, before: float, *, dry_run: bool) -> bool:
    """Remove a temporary file that nobody holds and nobody wrote to since; whether it is one. Raises OSError."""
    fd = lock(path)
    if fd is None:
        return False
    try:
        old = os.fstat(fd).st_mtime < before
        if old and not dry_run:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)
    return old
