"""The worker's disk cache: files by digest, within a budget of bytes, hashed before each use.

Owns `blobs/` and `tmp/` under its folder. A file that was truncated or overwritten, by whomever and
whenever, is dropped and fetched again. Does not know adapters or which file belongs to which.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from compute_worker.runtime.api import Tier
from compute_worker.runtime.tally import Tally
from compute_worker.runtime.waiting import Signal, SingleFlight, until
from lorry.errors import CacheBusy, DigestMismatch, RequestTooLarge, StorageUnavailable
from lorry.format.digest import digest_of_file, is_digest
from lorry.format.manifest import ManifestFile

_T = TypeVar("_T")
# Writes the file's bytes to the path, which does not exist yet.
Fetch = Callable[[ManifestFile, Path], Awaitable[None]]


@dataclass(slots=True)
class _Slot:
    """Room for one file. holds: uses at this moment.

    present: whether the file lies there. stamp: what the file looked like just before it was hashed.
    """

    size: int
    present: bool
    holds: int = 0
    stamp: tuple[int, int, int] | None = None


class DiskCache:
    """Files by digest. Belongs to the event loop; reads and hashes in the executor's threads.

    budget: bytes of all files together. patience: seconds that a use waits for room. `dropped` is
    called with the digest of each file that is gone.
    """

    def __init__(self, directory: Path, budget: int, executor: Executor, patience: float) -> None:
        self.budget = budget
        self.dropped: Callable[[str], None] = lambda _: None
        self.tally = Tally()
        self._blobs = directory / "blobs"
        self._tmp = directory / "tmp"
        self._executor = executor
        self._patience = patience
        self._slots: OrderedDict[str, _Slot] = OrderedDict()  # least recently used first
        self._flight: SingleFlight[None] = SingleFlight()
        self._room = Signal()

    @property
    def used(self) -> int:
        """Bytes of the files, and of those that are on their way."""
        return sum(slot.size for slot in self._slots.values())

    def has(self, digest: str) -> bool:
        """Whether the file is here, hashed or not."""
        slot = self._slots.get(digest)
        return slot is not None and slot.present

    async def start(self) -> None:
        """Make the folders, sweep what a killed process left half done, take stock of the rest.

        Raises StorageUnavailable.
        """
        with _typed():
            for digest, size in await self._thread(self._take_stock):
                self._slots[digest] = _Slot(size, present=True)
            self._evict(self.used - self.budget)

    async def close(self) -> None:
        """Stop fetching."""
        await self._flight.close()

    @asynccontextmanager
    async def hold(self, files: Sequence[ManifestFile], fetch: Fetch) -> AsyncIterator[list[Path]]:
        """Paths of the files, in order, hashed now, and kept while the block runs.

        All of them or none: room is granted at once, so that two who hold a part each cannot wait
        for each other. Raises what `fetch` raises; DigestMismatch where the bytes are wrong, or
        changed while the block ran (what it read is not to be trusted then); RequestTooLarge (more
        than the budget); CacheBusy (no room for as long as was waited); StorageUnavailable.
        """
        unique = {file.digest: file for file in files}
        with _typed():
            await self._grant(list(unique.values()))
        try:
            with _typed():
                await asyncio.gather(*(self._ensure(file, fetch) for file in unique.values()))
            yield [self._path(file.digest) for file in files]
            self._check_unchanged(unique)
        finally:
            for digest in unique:
                self._let_go(digest)

    async def adopt(self, file: ManifestFile, path: Path) -> None:
        """Move a file that was made here into the cache. Raises as `hold`."""

        async def move(_: ManifestFile, into: Path) -> None:
            await self._thread(path.replace, into)

        async with self.hold([file], move):
            return

    def discard(self, digest: str) -> None:
        """Let a file go, at the end of those uses that are under way."""
        slot = self._slots.get(digest)
        if slot is None:
            return
        slot.present = False
        if not slot.holds:
            self._drop(digest)
            self._room.notify()

    @asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """An empty folder on the same file system, gone with all it holds when the block ends.

        What fails in it as a file does, for want of room or rights, comes out as StorageUnavailable.
        """
        path = self._tmp / uuid.uuid4().hex
        with _typed():
            path.mkdir()
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)

    async def _grant(self, files: Sequence[ManifestFile]) -> None:
        size = sum(file.size for file in files)
        if size > self.budget:
            raise RequestTooLarge(f"the disk cache holds {self.budget} bytes, the adapter needs {size}")

        def busy() -> CacheBusy:
            return CacheBusy(f"{size} bytes were needed in the disk cache, where {self.used} are in use")

        async with until(time.monotonic() + self._patience, busy):
            while not self._try_grant({file.digest: file for file in files}):
                await self._room.wait()

    def _try_grant(self, files: dict[str, ManifestFile]) -> bool:
        for digest, file in files.items():
            slot = self._slots.get(digest)
            if slot is not None and not slot.holds and slot.size != file.size:  # cut while no process watched
                self._drop(digest)
        new = sum(file.size for digest, file in files.items() if digest not in self._slots)
        idle = sum(slot.size for digest, slot in self._slots.items() if not slot.holds and digest not in files)
        short = self.used + new - self.budget
        if short > idle:
            return False
        self._evict(short, keep=files)
        for digest, file in files.items():
            self._slots.setdefault(digest, _Slot(file.size, present=False)).holds += 1
            self._slots.move_to_end(digest)
        return True

    def _evict(self, short: int, keep: Container[str] = ()) -> None:
        for digest, slot in list(self._slots.items()):
            if short <= 0:
                return
            if not slot.holds and digest not in keep:
                self._drop(digest)
                self.tally.evicted[Tier.DISK] += 1
                short -= slot.size

    def _drop(self, digest: str) -> None:
        del self._slots[digest]
        self._path(digest).unlink(missing_ok=True)
        self.dropped(digest)

    def _let_go(self, digest: str) -> None:
        slot = self._slots[digest]
        slot.holds -= 1
        if not slot.holds and not slot.present:
            self._drop(digest)  # what lies there, if anything, is not what it should be
        self._room.notify()

    async def _ensure(self, file: ManifestFile, fetch: Fetch) -> None:
        def begin() -> Coroutine[None, None, None]:
            slot = self._slots[file.digest]
            slot.holds += 1  # its own: the work goes on where everybody who asked has gone
            return self._bring(file, slot, fetch)

        await self._flight.run(file.digest, begin)

    async def _bring(self, file: ManifestFile, slot: _Slot, fetch: Fetch) -> None:
        path = self._path(file.digest)
        try:
            if slot.present:
                slot.stamp = await self._thread(_verify, path, file)
                slot.present = slot.stamp is not None
            if not slot.present:
                slot.stamp = await self._fetch(file, path, fetch)
                slot.present = True
        finally:
            self._let_go(file.digest)

    async def _fetch(self, file: ManifestFile, path: Path, fetch: Fetch) -> tuple[int, int, int]:
        temp, since = self._tmp / uuid.uuid4().hex, time.monotonic()
        try:
            await fetch(file, temp)
            stamp = await self._thread(_verify, temp, file)
            if stamp is None:
                raise DigestMismatch(f"expected {file.size} bytes of {file.digest} for {file.name}, got others")
            temp.replace(path)
        finally:
            temp.unlink(missing_ok=True)
        self.tally.loads[Tier.DISK].add(time.monotonic() - since)
        return stamp

    def _check_unchanged(self, digests: Iterable[str]) -> None:
        for digest in digests:
            if _stamp(self._path(digest)) != self._slots[digest].stamp:
                raise DigestMismatch(f"the cached file of {digest} changed while it was read")

    def _path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    async def _thread(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

    def _take_stock(self) -> list[tuple[str, int]]:
        """(Digest, size) of the files from an earlier life, least recently written first."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._tmp, ignore_errors=True)
        self._tmp.mkdir()
        found = [(f"sha256:{entry.name}", entry.stat()) for entry in os.scandir(self._blobs) if entry.is_file()]
        found.sort(key=lambda item: item[1].st_mtime_ns)
        return [(digest, stat.st_size) for digest, stat in found if is_digest(digest)]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _verify(path: Path, file: ManifestFile) -> tuple[int, int, int] | None:
    """The file's stamp where its bytes are what they should be, else None."""
    stamp = _stamp(path)
    if stamp is None or stamp[1] != file.size or digest_of_file(path) != file.digest:
        return None
    return stamp


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"the worker's cache folder failed: {error.strerror or error}") from error
