"""Small files of the worker's cache folder: written whole or not at all, and the lock on the folder.

Owns the temporary name, the rename, and that one worker alone uses the folder. Does not know what a
file says. What is read back is checked by its reader: nothing here is synced to the disk.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

from lorry.errors import AlreadyRunning, StorageUnavailable


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one stroke. Raises StorageUnavailable."""
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageUnavailable(f"the worker's cache folder failed: {error.strerror or error}") from error


class FolderLock:
    """One process at a time in a folder. The lock goes with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None

    def take(self) -> None:
        """Make the folder and lock it. Raises AlreadyRunning, StorageUnavailable."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageUnavailable(f"the worker's cache folder failed: {error.strerror or error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise AlreadyRunning(
                f"the cache folder {self._folder} is another worker's: give each its own LORRY_WORKER_CACHE_DIR"
            ) from None
        self._file = file

    def release(self) -> None:
        """Let the folder go. A second time does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
