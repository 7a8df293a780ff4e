"""The disk cache's folder for what is not finished: files that come, folders that something is made in.

Owns `tmp/`, where nothing is while nothing comes, and in `spare/` a file whose memory the system has before its bytes
come. Both are emptied at start. Belongs to the event loop. Does not know what becomes of the files.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

from compute_worker.runtime.calm import Calm
from lorry.errors import StorageUnavailable

# Smaller ones are written in less time than it takes to think of them.
_LARGE = 1 << 20
# Of a larger one the rest comes as it comes: what is ready for nothing should not push much else out of memory.
_READY_BYTES = 64 << 20
# One read; stays in a core's cache.
_CHUNK = 1 << 18


class Temporary:
    """`tmp/` and `spare/` in a folder. The executor's threads do what takes long."""

    def __init__(self, directory: Path, executor: Executor) -> None:
        self._folder = directory / "tmp"
        self._spare = directory / "spare"
        self._ready: Path | None = None
        self._calm = Calm(executor)

    def start(self) -> None:
        """Make the folders; what a killed process left in them is gone. Blocking. Raises OSError."""
        for folder in (self._folder, self._spare):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def close(self) -> None:
        """Begin nothing more."""
        self._calm.close()

    def file(self, size: int) -> Path:
        """Where a file of `size` bytes may be written. There may be one already, of this size, all zero.

        Raises OSError.
        """
        path = self._folder / uuid.uuid4().hex
        if size >= _LARGE:
            ready, self._ready = self._ready, None
            if ready is not None:
                with suppress(FileNotFoundError):  # whoever sweeps temporary files took it
                    os.truncate(ready, size)
                    ready.replace(path)
            self._calm.then(partial(self._prepare, size))
        return path

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """An empty folder, gone with all it holds when the block ends.

        Raises StorageUnavailable, also where a file fails in the block.
        """
        path = self._folder / uuid.uuid4().hex
        with typed():
            path.mkdir()
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)

    def _prepare(self, size: int) -> None:
        """The next file, as large as the last: a hole, which takes no disk, and was read, so that it has its memory.

        What the system never had in use, or has given back to a host that it is a guest of, takes a microsecond a KB to
        write to for the first time: a third of the time in which an adapter of 10 MB came.
        """
        path = self._spare / uuid.uuid4().hex
        try:
            with path.open("xb+", buffering=0) as file:
                file.truncate(min(size, _READY_BYTES))
                buffer = bytearray(_CHUNK)
                while file.readinto(buffer):
                    pass
        except OSError:
            path.unlink(missing_ok=True)  # whoever comes next meets what is wrong, and says so
        else:
            useless, self._ready = self._ready, path
            if useless is not None:
                useless.unlink(missing_ok=True)


@contextmanager
def typed() -> Iterator[None]:
    """What fails in the block as a file does, for want of room or rights, comes out as StorageUnavailable."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"the worker's cache folder failed: {error.strerror or error}") from error
