"""The cache in front of S3: the suite's rules behind it, and what it alone promises."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from adapter_registry.blobs.cached import CachedStore, CacheSettings
from adapter_registry.blobs.filesystem import FileStore
from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.blobs.s3_parts import PART_BYTES
from lorry.errors import BlobNotFound
from lorry.format.digest import digest_of
from tests.suites.blob_store import BlobStoreSuite, BoundedMemorySuite
from tests.suites.blob_store_reading import ReadingRules
from tests.suites.blob_store_upkeep import UpkeepRules
from tests.support.blobs import Place, blob, damage_file, flipped, join, put, read
from tests.support.s3 import s3_place

KB = 1000
BUDGET = 100 * KB


def cached_place(inner: Place, folder: Path) -> Place:
    """Each store on the place is another replica: with a cache of its own."""
    replicas = count()
    return Place(
        open=lambda: CachedStore(inner.open(), CacheSettings(folder / str(next(replicas)), 100 << 20)),
        granule=inner.granule,
        damage=inner.damage,
    )


@pytest.mark.s3
@pytest.mark.long  # on files each rule runs always; a bucket is its slower twin
class TestCachedS3(ReadingRules, UpkeepRules, BoundedMemorySuite):
    """Uploads pass by the cache: their rules run on the S3 store, and behind the cache on files below."""

    most = 6 * PART_BYTES  # as the S3 store's

    @pytest.fixture
    def place(self, s3_settings: S3Settings, s3_bucket: str, tmp_path: Path) -> Place:
        return cached_place(s3_place(s3_bucket, s3_settings), tmp_path / "cache")


class TestCachedFiles(BlobStoreSuite, BoundedMemorySuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        root = tmp_path / "store"
        inner = Place(open=lambda: FileStore(root), granule=1, damage=lambda digest: damage_file(stored(root, digest)))
        return cached_place(inner, tmp_path / "cache")


def stored(root: Path, digest: str) -> Path:
    return root / "blobs" / "sha256" / digest[7:9] / digest[7:]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def restart(root: Path, folder: Path) -> Callable[..., BlobStore]:
    """Opens a store on the same folders, as the next process does. Files below stand for S3."""
    return lambda budget=BUDGET: CachedStore(FileStore(root), CacheSettings(folder, budget))


@pytest.fixture
def store(restart: Callable[..., BlobStore]) -> BlobStore:
    return restart()


def copies(folder: Path) -> dict[str, int]:
    """Digests of whole copies, and their lengths."""
    return {f"sha256:{path.name}": path.stat().st_size for path in folder.iterdir() if len(path.name) == 64}


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


# What is kept


def test_what_was_read_once_is_read_from_the_copy(store: BlobStore, root: Path) -> None:
    data = blob(50 * KB)
    digest = put(store, data)
    assert read(store, digest, chunk=7 * KB) == data
    damage_file(stored(root, digest))
    assert read(store, digest) == data
    assert read(store, digest, offset=11, limit=1000, chunk=300) == data[11:1011]


def test_one_open_blob_reads_its_copy_as_soon_as_there_is_one(store: BlobStore, root: Path) -> None:
    data = blob(50 * KB)
    digest = put(store, data)
    with closing(store.open(digest)) as opened:
        assert join(opened.chunks(0, 0, 7 * KB)) == data
        damage_file(stored(root, digest))
        assert join(opened.chunks(0, 0, 7 * KB)) == data


def test_a_part_is_read_from_the_store_and_not_kept(store: BlobStore, folder: Path) -> None:
    digest = put(store, blob(50 * KB))
    read(store, digest, offset=1)
    read(store, digest, limit=49 * KB)
    assert bytes_in(folder) == 0


def test_a_read_that_is_given_up_leaves_nothing(store: BlobStore, folder: Path) -> None:
    data = blob(50 * KB)
    digest = put(store, data)
    with closing(store.open(digest)) as opened:
        pieces = opened.chunks(0, 0, 10 * KB)
        next(pieces)
        assert bytes_in(folder) == len(data)
        del pieces
        assert bytes_in(folder) == 0
    assert read(store, digest) == data
    assert copies(folder) == {digest: len(data)}


def test_one_reader_fills_and_those_who_come_meanwhile_read_past_it(store: BlobStore, folder: Path) -> None:
    data = blob(50 * KB)
    digest = put(store, data)
    with closing(store.open(digest)) as first, closing(store.open(digest)) as second:
        slow = first.chunks(0, 0, 10 * KB)
        begun = bytes(next(slow))
        assert join(second.chunks(0, 0, 10 * KB)) == data  # does not wait for the slow one
        assert bytes_in(folder) == len(data)
        assert copies(folder) == {}
        assert begun + join(slow) == data
    assert copies(folder) == {digest: len(data)}


def test_wrong_bytes_of_the_store_are_never_kept(store: BlobStore, root: Path, folder: Path) -> None:
    data = blob(50 * KB)
    digest = put(store, data)
    damage_file(stored(root, digest))
    assert read(store, digest) == flipped(data)
    assert bytes_in(folder) == 0


def test_a_blob_that_another_process_deleted_is_gone_though_a_copy_is_here(store: BlobStore, root: Path) -> None:
    digest = put(store, blob(50 * KB))
    read(store, digest)
    FileStore(root).delete(digest)
    with pytest.raises(BlobNotFound):
        store.open(digest)


# The budget


def test_what_was_not_read_for_longest_goes_first(store: BlobStore, folder: Path) -> None:
    first, second, third, fourth = (put(store, blob(30 * KB, seed)) for seed in range(4))
    for digest in (first, second, third, first, fourth):
        read(store, digest)
        assert bytes_in(folder) <= BUDGET
    assert set(copies(folder)) == {first, third, fourth}


def test_room_is_taken_when_a_read_begins(store: BlobStore, folder: Path) -> None:
    digests = [put(store, blob(60 * KB, seed)) for seed in range(2)]
    with closing(store.open(digests[0])) as first, closing(store.open(digests[1])) as second:
        slow = first.chunks(0, 0, 10 * KB)
        next(slow)
        assert join(second.chunks(0, 0, 10 * KB)) == blob(60 * KB, 1)  # there is no room for both
        assert bytes_in(folder) == 60 * KB
        list(slow)
    assert set(copies(folder)) == {digests[0]}


def test_a_blob_larger_than_the_budget_evicts_nothing(store: BlobStore, folder: Path) -> None:
    small, large = put(store, blob(10 * KB)), put(store, blob(BUDGET + 1))
    read(store, small)
    assert read(store, large) == blob(BUDGET + 1)
    assert set(copies(folder)) == {small}


def test_a_read_goes_on_while_its_copy_is_evicted(store: BlobStore, folder: Path) -> None:
    data = blob(60 * KB)
    digest = put(store, data)
    read(store, digest)
    with closing(store.open(digest)) as opened:
        pieces = opened.chunks(0, 0, 10 * KB)
        begun = bytes(next(pieces))
        read(store, put(store, blob(60 * KB, seed=2)))
        assert digest not in copies(folder)
        assert begun + join(pieces) == data


# Restarts and damage


def test_copies_outlive_the_process(restart: Callable[..., BlobStore], root: Path) -> None:
    data = blob(50 * KB)
    first = restart()
    digest = put(first, data)
    read(first, digest)
    damage_file(stored(root, digest))
    assert read(restart(), digest) == data


def test_a_smaller_budget_holds_from_the_start(restart: Callable[..., BlobStore], folder: Path) -> None:
    first = restart()
    digests = [put(first, blob(30 * KB, seed)) for seed in range(3)]
    for digest in digests:
        read(first, digest)
    restart(budget=70 * KB)
    assert set(copies(folder)) == set(digests[1:])


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda _: b"", flipped], ids=["cut", "empty", "flipped"])
def test_a_copy_that_was_harmed_between_two_processes_is_not_used(
    restart: Callable[..., BlobStore], folder: Path, harm: Callable[[bytes], bytes]
) -> None:
    data = blob(50 * KB)
    digest = put(restart(), data)
    read(restart(), digest)
    (folder / digest[7:]).write_bytes(harm(data))
    again = restart()
    assert read(again, digest) == data
    assert (folder / digest[7:]).read_bytes() == data


def test_a_copy_that_was_harmed_under_a_running_process_is_cured_by_the_quarantine(
    store: BlobStore, folder: Path
) -> None:
    data = blob(50 * KB)
    digest = put(store, data)
    read(store, digest)
    damage_file(folder / digest[7:])
    assert not store.quarantine(digest)  # the blob itself is sound
    assert read(store, digest) == data


def test_what_a_killed_process_was_filling_goes_and_what_is_not_ours_stays(
    restart: Callable[..., BlobStore], folder: Path
) -> None:
    restart()
    left = folder / f"{digest_of(b'some')[7:]}.{'0' * 32}"
    left.write_bytes(bytes(BUDGET))
    (folder / "notes.txt").write_text("somebody's")
    digest = put(restart(), blob(BUDGET))
    read(restart(), digest)
    assert not left.exists()
    assert (folder / "notes.txt").exists()
    assert set(copies(folder)) == {digest}


def test_a_full_disk_fails_no_read(store: BlobStore, folder: Path) -> None:
    data = blob(50 * KB)
    digest = put(store, data)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 * KB, limits[1]))
    try:
        assert read(store, digest) == data
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert bytes_in(folder) == 0


def test_a_cache_folder_that_is_gone_fails_no_read(store: BlobStore, folder: Path) -> None:
    digest = put(store, blob(50 * KB))
    (folder / "lock").unlink()
    folder.rmdir()
    assert read(store, digest) == blob(50 * KB)


def test_reads_of_every_kind_leave_no_descriptor_behind(store: BlobStore) -> None:
    digests = [put(store, blob(40 * KB, seed)) for seed in range(3)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for index in range(300):
        read(store, digests[index % 3], limit=index % 2 * 100)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
