"""The worker's disk cache: files by digest, within a budget of bytes, hashed before each use.

Owns `blobs/` under its folder. A file that was truncated or overwritten, by whomever and
whenever, is dropped and fetched again. Does not know adapters or which file belongs to which.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from compute_worker.runtime import costs
from compute_worker.runtime.api import Tier
from compute_worker.runtime.eviction import Eviction
from compute_worker.runtime.incoming import Expected, Incoming, Look, Nobody, Stamp, copy, stamp_of, verify
from compute_worker.runtime.tally import Tally
from compute_worker.runtime.temporary import Temporary, typed
from compute_worker.runtime.waiting import Signal, SingleFlight, until
from lorry.errors import CacheBusy, DigestMismatch, RequestTooLarge
from lorry.format.digest import is_digest
from lorry.format.manifest import ManifestFile
from lorry.partfile import Sink

_T = TypeVar("_T")
# Sends the file's bytes to the sink, and commits it.
Fetch = Callable[[ManifestFile, Sink], Awaitable[None]]


@dataclass(slots=True)
class _Slot:
    """Room for one file. holds: uses at this moment.

    present: whether the file lies there. stamp: what the file looked like just before it was hashed.
    """

    size: int
    present: bool
    holds: int = 0
    stamp: Stamp | None = None


class DiskCache:
    """Files by digest. Belongs to the event loop; reads and hashes in the executor's threads.

    budget: bytes of all files together. eviction: told of each use. patience: seconds that a use waits for
    room. `dropped` is called with the digest of each file that is gone. temporary: on the same file system.
    """

    def __init__(
        self, directory: Path, budget: int, executor: Executor, eviction: Eviction, *, patience: float
    ) -> None:
        self.budget = budget
        self.dropped: Callable[[str], None] = lambda _: None
        self.tally = Tally()
        self._blobs = directory / "blobs"
        self.temporary = Temporary(directory, executor)
        self._executor = executor
        self._eviction = eviction
        self._patience = patience
        self._slots: dict[str, _Slot] = {}
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
        with typed():
            for digest, size in await self._thread(self._take_stock):
                self._slots[digest] = _Slot(size, present=True)
                self._note_use(digest)
            self._evict(self.used - self.budget)

    async def close(self) -> None:
        """Stop fetching."""
        await self._flight.close()
        self.temporary.close()

    @asynccontextmanager
    async def hold(
        self,
        files: Sequence[ManifestFile],
        fetch: Fetch,
        look: Callable[[Sequence[Path]], Look] | None = None,
    ) -> AsyncIterator[list[Path]]:
        """Paths of the files, in order, hashed now, and kept while the block runs.

        All of them or none: room is granted at once, so that two who hold a part each cannot wait
        for each other. look: called with the paths once all files but the last are here; sees the bytes
        of the last while they are hashed, unless another's use has that done already, or they came too soon.
        Raises what `fetch` and `look` raise; DigestMismatch where the bytes are wrong, or
        changed while the block ran (what it read is not to be trusted then); RequestTooLarge (more
        than the budget); CacheBusy (no room for as long as was waited); StorageUnavailable.
        """
        unique = {file.digest: file for file in files}
        with typed():
            await self._grant(list(unique.values()))
        try:
            with typed():
                paths = [self._path(file.digest) for file in files]
                if look:
                    await self._show(unique.values(), fetch, partial(look, paths))
                else:
                    await self._ensure_all(unique.values(), fetch)
            yield paths
            self._check_unchanged(unique)
        finally:
            for digest in unique:
                self._let_go(digest)

    async def adopt(self, file: ManifestFile, path: Path) -> None:
        """Take a file that was made here into the cache. Raises as `hold`."""

        async def fetch(_: ManifestFile, into: Sink) -> None:
            await self._thread(copy, path, into)

        async with self.hold([file], fetch):
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
            self._note_use(digest)
        return True

    def _evict(self, short: int, keep: Container[str] = ()) -> None:
        if short <= 0:
            return
        idle = [digest for digest, slot in self._slots.items() if not slot.holds and digest not in keep]
        for digest in sorted(idle, key=self._eviction.worth):
            if short <= 0:
                return
            short -= self._slots[digest].size
            self._eviction.gone(digest, evicted=True)
            self._drop(digest)
            self.tally.evicted[Tier.DISK] += 1

    def _note_use(self, digest: str) -> None:
        size = self._slots[digest].size
        self._eviction.used(digest, size, costs.to_disk(size))

    def _drop(self, digest: str) -> None:
        del self._slots[digest]
        self._eviction.gone(digest, evicted=False)
        self._path(digest).unlink(missing_ok=True)
        self.dropped(digest)

    def _let_go(self, digest: str) -> None:
        slot = self._slots[digest]
        slot.holds -= 1
        if not slot.holds and not slot.present:
            self._drop(digest)  # what lies there, if anything, is not what it should be
        self._room.notify()

    async def _show(self, files: Iterable[ManifestFile], fetch: Fetch, look: Callable[[], Look]) -> None:
        """Have all of the files, and let the last be seen by somebody who needs the others for that."""
        *others, last = files
        if self.has(last.digest) or not others:
            # At the disk's speed. One file under both names is no adapter; whoever looks finds out once it is here.
            await self._ensure_all(others or [last], fetch)
            await self._ensure(last, fetch, await self._thread(look))
            return
        expected = Expected()

        # Not one after the other: each takes a few round trips before its first byte is here.
        async def come() -> None:
            await self._ensure_all(others, fetch)
            await self._thread(lambda: expected.come(look()))

        await asyncio.gather(come(), self._ensure(last, fetch, expected))

    async def _ensure_all(self, files: Iterable[ManifestFile], fetch: Fetch) -> None:
        await asyncio.gather(*(self._ensure(file, fetch, Nobody()) for file in files))

    async def _ensure(self, file: ManifestFile, fetch: Fetch, look: Look) -> None:
        def begin() -> Coroutine[None, None, None]:
            slot = self._slots[file.digest]
            slot.holds += 1  # its own: the work goes on where everybody who asked has gone
            return self._bring(file, slot, fetch, look)

        await self._flight.run(file.digest, begin)

    async def _bring(self, file: ManifestFile, slot: _Slot, fetch: Fetch, look: Look) -> None:
        path = self._path(file.digest)
        try:
            if slot.present:
                slot.stamp = await self._thread(verify, path, file, look)
                slot.present = slot.stamp is not None
            if not slot.present:
                slot.stamp = await self._fetch(file, path, fetch, look)
                slot.present = True
        finally:
            self._let_go(file.digest)

    async def _fetch(self, file: ManifestFile, path: Path, fetch: Fetch, look: Look) -> Stamp:
        temp, since = self.temporary.file(file.size), time.monotonic()
        incoming = Incoming(temp, file, look)
        try:
            await fetch(file, incoming)
            if incoming.stamp is None:
                raise DigestMismatch(f"expected {file.size} bytes of {file.digest} for {file.name}, they did not come")
            temp.replace(path)
        finally:
            incoming.close()
            temp.unlink(missing_ok=True)
        self.tally.loads[Tier.DISK].add(time.monotonic() - since)
        return incoming.stamp

    def _check_unchanged(self, digests: Iterable[str]) -> None:
        for digest in digests:
            if stamp_of(self._path(digest)) != self._slots[digest].stamp:
                raise DigestMismatch(f"the cached file of {digest} changed while it was read")

    def _path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    async def _thread(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

    def _take_stock(self) -> list[tuple[str, int]]:
        """(Digest, size) of the files from an earlier life, least recently written first."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        self.temporary.start()
        found = [(f"sha256:{entry.name}", entry.stat()) for entry in os.scandir(self._blobs) if entry.is_file()]
        found.sort(key=lambda item: item[1].st_mtime_ns)
        return [(digest, stat.st_size) for digest, stat in found if is_digest(digest)]
