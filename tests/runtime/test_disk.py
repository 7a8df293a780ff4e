"""The disk cache: hashed before each use, within its budget, fetched once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compute_worker.runtime.disk import DiskCache
from compute_worker.runtime.eviction import LeastRecentlyUsed
from lorry.errors import CacheBusy, DigestMismatch, RegistryUnavailable, RequestTooLarge, StorageUnavailable
from lorry.format.digest import digest_of
from lorry.format.manifest import ManifestFile
from lorry.partfile import Sink

BUDGET = 100


class Origin:
    """Where the files come from."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.fetched: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()

    def file(self, text: str, size: int = 10) -> ManifestFile:
        data = text.encode().ljust(size)
        self.data[digest_of(data)] = data
        return ManifestFile(text, digest_of(data), size)

    async def fetch(self, file: ManifestFile, into: Sink) -> None:
        self.fetched[file.name] += 1
        await self.gate.wait()
        into.append(0, self.data[file.digest])
        into.commit()


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
async def disk(tmp_path: Path, executor: ThreadPoolExecutor) -> DiskCache:
    return await started(tmp_path, executor)


async def started(path: Path, executor: ThreadPoolExecutor, patience: float = 5.0) -> DiskCache:
    disk = DiskCache(path, BUDGET, executor, LeastRecentlyUsed(), patience=patience)
    await disk.start()
    return disk


async def read(disk: DiskCache, origin: Origin, *files: ManifestFile) -> list[bytes]:
    async with disk.hold(files, origin.fetch) as paths:
        return [path.read_bytes() for path in paths]


async def test_a_file_is_fetched_once(disk: DiskCache, origin: Origin) -> None:
    file = origin.file("a")
    assert await read(disk, origin, file) == await read(disk, origin, file) == [b"a         "]
    assert origin.fetched == {"a": 1}
    assert disk.used == 10


async def test_many_who_ask_at_once_share_one_fetch(disk: DiskCache, origin: Origin) -> None:
    file = origin.file("a")
    await asyncio.gather(*(read(disk, origin, file) for _ in range(20)))
    assert origin.fetched == {"a": 1}


async def test_a_fetch_outlives_the_one_who_asked(disk: DiskCache, origin: Origin) -> None:
    file = origin.file("a")
    origin.gate.clear()
    first = asyncio.create_task(read(disk, origin, file))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(read(disk, origin, file))
    await asyncio.sleep(0.01)
    first.cancel()
    origin.gate.set()
    assert await second == [b"a         "]
    assert origin.fetched == {"a": 1}


async def test_a_restart_finds_the_files_and_hashes_them_before_use(
    tmp_path: Path, executor: ThreadPoolExecutor, origin: Origin
) -> None:
    good, bad, cut = origin.file("good"), origin.file("bad"), origin.file("cut")
    await read(await started(tmp_path, executor), origin, good, bad, cut)
    blobs = tmp_path / "blobs"
    (blobs / bad.digest[7:]).write_bytes(b"x" * 10)
    (blobs / cut.digest[7:]).write_bytes(b"c")
    (tmp_path / "tmp" / "half").write_bytes(b"half a file")
    again = await started(tmp_path, executor)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert await read(again, origin, good, bad, cut) == [b"good      ", b"bad       ", b"cut       "]
    assert origin.fetched == {"good": 1, "bad": 2, "cut": 2}
    assert again.used == 30


async def test_a_file_overwritten_under_a_running_worker_is_fetched_again(
    disk: DiskCache, tmp_path: Path, origin: Origin
) -> None:
    file = origin.file("a")
    await read(disk, origin, file)
    (tmp_path / "blobs" / file.digest[7:]).write_bytes(b"b         ")
    assert await read(disk, origin, file) == [b"a         "]


async def test_bytes_that_change_while_they_are_read_are_not_trusted(disk: DiskCache, origin: Origin) -> None:
    file = origin.file("a")
    with pytest.raises(DigestMismatch, match="changed while it was read"):
        async with disk.hold([file], origin.fetch) as (path,):
            path.write_bytes(b"shorter")
    assert await read(disk, origin, file) == [b"a         "]


async def test_wrong_bytes_never_become_visible(disk: DiskCache, tmp_path: Path, origin: Origin) -> None:
    file = origin.file("a")
    right, origin.data[file.digest] = origin.data[file.digest], b"z         "
    with pytest.raises(DigestMismatch, match="expected 10 bytes"):
        await read(disk, origin, file)
    assert list((tmp_path / "blobs").iterdir()) == list((tmp_path / "tmp").iterdir()) == []
    assert disk.used == 0
    origin.data[file.digest] = right
    await read(disk, origin, file)


async def test_a_fetch_that_fails_leaves_no_trace(disk: DiskCache, tmp_path: Path, origin: Origin) -> None:
    async def broken(_: ManifestFile, into: Sink) -> None:
        into.append(0, b"half")
        raise RegistryUnavailable("gone")

    with pytest.raises(RegistryUnavailable):
        async with disk.hold([origin.file("a")], broken):
            pass
    assert disk.used == 0
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_the_least_recently_used_goes_first(disk: DiskCache, origin: Origin) -> None:
    gone: list[str] = []
    disk.dropped = gone.append
    a, b, c = (origin.file(name, 40) for name in "abc")
    for file in (a, b, a, c):
        await read(disk, origin, file)
    assert gone == [b.digest]
    assert (disk.has(a.digest), disk.has(b.digest), disk.has(c.digest)) == (True, False, True)
    assert disk.used == 80


async def test_what_is_held_stays_and_the_others_wait(disk: DiskCache, origin: Origin) -> None:
    a, b = origin.file("a", 60), origin.file("b", 60)
    async with disk.hold([a], origin.fetch):
        waiting = asyncio.create_task(read(disk, origin, b))
        await asyncio.sleep(0.02)
        assert (waiting.done(), disk.used) == (False, 60)
    await waiting
    assert disk.used == 60


async def test_waiting_for_room_ends_busy(tmp_path: Path, executor: ThreadPoolExecutor, origin: Origin) -> None:
    disk = await started(tmp_path, executor, patience=0.02)
    async with disk.hold([origin.file("a", 60)], origin.fetch):
        with pytest.raises(CacheBusy, match="60 bytes were needed in the disk cache"):
            await read(disk, origin, origin.file("b", 60))


async def test_two_who_need_several_files_cannot_wait_for_each_other(disk: DiskCache, origin: Origin) -> None:
    pairs = [(origin.file(f"{n} one", 30), origin.file(f"{n} two", 30)) for n in range(6)]
    await asyncio.gather(*(read(disk, origin, *pair) for pair in pairs))
    assert disk.used <= BUDGET


async def test_more_than_the_budget_is_refused(disk: DiskCache, origin: Origin) -> None:
    with pytest.raises(RequestTooLarge, match="holds 100 bytes, the adapter needs 101"):
        await read(disk, origin, origin.file("a", 101))


async def test_a_smaller_budget_after_a_restart_is_kept(
    tmp_path: Path, executor: ThreadPoolExecutor, origin: Origin
) -> None:
    await read(await started(tmp_path, executor), origin, origin.file("a", 50), origin.file("b", 50))
    smaller = DiskCache(tmp_path, 60, executor, LeastRecentlyUsed(), patience=1.0)
    await smaller.start()
    assert smaller.used == 50


async def test_a_folder_that_fails_is_told_by_its_reason(
    tmp_path: Path, executor: ThreadPoolExecutor, origin: Origin
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageUnavailable, match=r"cache folder failed: (Not a directory|File exists)"):
        await started(tmp_path / "file" / "cache", executor)
    disk = await started(tmp_path, executor)
    (tmp_path / "tmp").rmdir()
    with pytest.raises(StorageUnavailable, match="No such file"):
        await read(disk, origin, origin.file("a"))


async def test_a_file_made_here_is_adopted_and_a_scratch_folder_goes(disk: DiskCache, origin: Origin) -> None:
    file = origin.file("made")
    async with disk.temporary.folder() as folder:
        (folder / "made").write_bytes(origin.data[file.digest])
        await disk.adopt(file, folder / "made")
    assert not folder.exists()
    assert await read(disk, origin, file) == [b"made      "]
    assert origin.fetched == {}


async def test_a_full_disk_while_something_is_made_is_typed(disk: DiskCache) -> None:
    with pytest.raises(StorageUnavailable, match="cache folder failed: No space left on device"):
        async with disk.temporary.folder():
            await asyncio.to_thread(Path("/dev/full").write_bytes, b"does not fit")
