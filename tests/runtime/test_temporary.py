"""What is not finished: where files are written that come, the next of which finds its memory ready."""

import asyncio
import ctypes
import mmap
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compute_worker.runtime import calm
from compute_worker.runtime.incoming import Incoming, Nobody
from compute_worker.runtime.temporary import Temporary
from lorry.format.digest import digest_of
from lorry.format.manifest import ManifestFile
from tests.support.toy_world import eventually

SIZE = 3 << 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Temporary]:
    monkeypatch.setattr(calm, "CALM_SECONDS", 0.0)
    with ThreadPoolExecutor(1) as executor:
        place = Temporary(tmp_path, executor)
        place.start()
        yield place
        place.close()


async def ready(place: Temporary) -> None:
    """A large file came, and the next is prepared."""
    place.file(SIZE)
    await eventually(lambda: place._ready is not None)


def in_memory(path: Path) -> list[bool]:
    """Of each page of a file, whether the system holds it."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        first = ctypes.c_char.from_buffer(pages)
        told = (ctypes.c_ubyte * (-(-len(pages) // mmap.PAGESIZE)))()
        assert (
            ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(pages)), told) == 0
        )
        del first
        return [bool(page & 1) for page in told]


@pytest.mark.skipif(sys.platform != "linux", reason="no such mincore")
async def test_the_next_large_file_finds_its_memory_ready_and_takes_no_disk(place: Temporary) -> None:
    await ready(place)
    path = place.file(SIZE)
    assert (path.stat().st_size, path.stat().st_blocks) == (SIZE, 0)
    held = in_memory(path)
    assert sum(held) > len(held) // 2  # a system short of memory may have taken some back


@pytest.mark.parametrize("size", [SIZE - 5, SIZE, 2 * SIZE])
async def test_a_file_of_any_size_is_what_came_and_nothing_else(place: Temporary, size: int) -> None:
    await ready(place)
    data = b"ab" * (size // 2) + b"c" * (size % 2)
    path = place.file(size)
    incoming = Incoming(path, ManifestFile("weights", digest_of(data), size), Nobody())
    incoming.append(0, data[: SIZE // 2])
    incoming.restart()
    for begin in range(0, size, 1 << 20):
        incoming.append(begin, data[begin : begin + (1 << 20)])
    incoming.commit()
    assert path.read_bytes() == data


async def test_a_small_file_leaves_it_for_a_large_one(place: Temporary) -> None:
    await ready(place)
    assert not place.file(1000).exists()
    assert place.file(SIZE).exists()


async def test_nothing_is_prepared_twice_or_left_behind(place: Temporary, tmp_path: Path) -> None:
    await ready(place)
    place._prepare(SIZE)
    assert [path.stat().st_size for path in (tmp_path / "spare").iterdir()] == [SIZE]
    assert not list((tmp_path / "tmp").iterdir())
    place.start()
    assert not list((tmp_path / "spare").iterdir())


async def test_where_there_is_no_room_for_it_files_come_as_before(place: Temporary, tmp_path: Path) -> None:
    (tmp_path / "spare").rmdir()
    place.file(SIZE)
    await asyncio.sleep(0.05)
    assert not place.file(SIZE).exists()


async def test_what_somebody_swept_away_is_not_missed(place: Temporary, tmp_path: Path) -> None:
    await ready(place)
    for path in (tmp_path / "spare").iterdir():
        path.unlink()
    assert not place.file(SIZE).exists()
