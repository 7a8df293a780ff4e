"""Backup and restore of a registry on SQLite and files, while it runs and after its end."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from adapter_registry import backup as module
from adapter_registry.__main__ import main
from adapter_registry.backup import Copied, back_up, restore
from adapter_registry.settings import Settings
from adapter_registry.store.catalog import open_catalog
from lorry.errors import AlreadyRunning, DataLoss, FailedPrecondition
from lorry.format.digest import digest_of
from tests.support.adapters import CONFIG, adapter_bytes
from tests.support.registry import Client, running_registry

STRAY = b"sent, not published"


def embedded(folder: Path) -> Settings:
    return Settings(data_dir=folder)


async def fill(target: str, seeds: range) -> None:
    async with Client(target) as client:
        await client.register()
        for seed in seeds:
            await client.publish(f"line{seed}", adapter_bytes(seed=seed))


async def contents(target: str) -> dict[str, bytes]:
    """Every file of every version, by reference."""
    async with Client(target) as client:
        adapters = (await client.call("ListAdapters")).adapters
        versions = [(await client.call("Resolve", adapter=adapter.name)).version for adapter in adapters]
        return {
            f"{version.name}/{file.name}": b"".join([piece.data for piece in await client.get(file.digest)])
            for version in versions
            for file in version.manifest.files
        }


def blob_files(folder: Path) -> dict[str, Path]:
    return {f"sha256:{path.name}": path for path in folder.glob("blobs/sha256/*/*")}


async def test_a_running_registry_is_backed_up_and_comes_back_whole(tmp_path: Path) -> None:
    live, copy, again = tmp_path / "live", tmp_path / "copy", tmp_path / "again"
    async with running_registry(live) as target:
        await fill(target, range(3))
        async with Client(target) as client:
            await client.put(STRAY)
        before = await contents(target)
        assert back_up(embedded(live), copy).blobs == len(blob_files(live))
    assert restore(embedded(again), copy).blobs == len(blob_files(live))
    async with running_registry(again) as target:
        assert await contents(target) == before
        await fill(target, range(3, 4))
    kept = blob_files(copy)
    assert not any(path.samefile(kept[digest]) for digest, path in blob_files(again).items() if digest in kept)


async def test_a_second_backup_takes_what_is_new_and_drops_what_is_gone(tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    async with running_registry(live) as target:
        await fill(target, range(2))
        first = back_up(embedded(live), copy)
        assert back_up(embedded(live), copy) == Copied(first.blobs, 0)
        await fill(target, range(2, 3))
        async with Client(target) as client:
            gone = (await client.call("Resolve", adapter="line0")).version
            await client.call("DeleteAdapter", adapter="line0")
        forget(live, gone.manifest.files[-1].digest)
        second = back_up(embedded(live), copy)
    assert 0 < second.new_bytes < first.new_bytes
    assert set(blob_files(copy)) == set(blob_files(live)) - {gone.manifest.files[-1].digest}


def forget(folder: Path, digest: str) -> None:
    """As a collection of garbage does in the end."""
    with closing(sqlite3.connect(folder / "catalog.db")) as connection, connection:
        connection.execute("DELETE FROM blob_claims WHERE digest = ?", (digest,))
        connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))


async def test_blobs_are_linked_where_that_works_and_copied_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "live"
    async with running_registry(live) as target:
        await fill(target, range(1))

    def same_files(copy: Path) -> bool:
        back_up(embedded(live), copy)
        assert set(blob_files(copy)) == set(blob_files(live))
        assert all(digest_of(path.read_bytes()) == digest for digest, path in blob_files(copy).items())
        return all(path.samefile(blob_files(live)[digest]) for digest, path in blob_files(copy).items())

    assert same_files(tmp_path / "linked")
    monkeypatch.setattr(Path, "hardlink_to", refuse_links)
    assert not same_files(tmp_path / "copied")


def refuse_links(_path: Path, _target: Path) -> None:
    raise PermissionError("no links here")


async def test_a_backup_that_dies_half_way_leaves_the_older_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    async with running_registry(live) as target:
        await fill(target, range(1))
        back_up(embedded(live), copy)
        before = await contents(target)
        await fill(target, range(1, 3))
    monkeypatch.setattr(module, "_link", failing_at(module._link, 2))
    with pytest.raises(OSError, match="the disk is full"):
        back_up(embedded(live), copy)
    restore(embedded(tmp_path / "again"), copy)
    async with running_registry(tmp_path / "again") as target:
        assert await contents(target) == before


def failing_at(link: Callable[[Path, Path], int], which: int) -> Callable[[Path, Path], int]:
    calls = iter(range(100))

    def limited(source: Path, target: Path) -> int:
        if next(calls) == which:
            raise OSError("the disk is full")
        return link(source, target)

    return limited


async def test_a_damaged_backup_is_refused_and_starts_no_registry(tmp_path: Path) -> None:
    live, copy, again = tmp_path / "live", tmp_path / "copy", tmp_path / "again"
    async with running_registry(live) as target:
        await fill(target, range(1))
    back_up(embedded(live), copy)
    (flipped, path), (lost, other) = sorted(blob_files(copy).items())
    path.unlink()
    path.write_bytes(b"other bytes")
    other.unlink()
    with pytest.raises(DataLoss) as refused:
        restore(embedded(again), copy)
    assert flipped in refused.value.message
    assert lost in refused.value.message
    assert not (again / "catalog.db").exists()


async def test_what_the_registry_lacks_is_told_and_the_rest_is_backed_up(tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    async with running_registry(live) as target:
        await fill(target, range(2))
    lost, path = next((d, p) for d, p in blob_files(live).items() if CONFIG.encode() not in p.read_bytes())
    path.unlink()
    with pytest.raises(DataLoss, match=lost):
        back_up(embedded(live), copy)
    assert set(blob_files(copy)) == set(blob_files(live))


async def test_no_backup_is_made_during_a_collection_of_garbage(tmp_path: Path) -> None:
    async with running_registry(tmp_path):
        with (
            closing(open_catalog(embedded(tmp_path).database)) as catalog,
            closing(catalog.take_turn("gc")),
            pytest.raises(AlreadyRunning),
        ):
            back_up(embedded(tmp_path), tmp_path / "copy")


async def test_nothing_is_restored_over_a_registry_or_out_of_nothing(tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    async with running_registry(live):
        back_up(embedded(live), copy)
    with pytest.raises(FailedPrecondition, match="empty data folder"):
        restore(embedded(live), copy)
    with pytest.raises(FailedPrecondition, match="expected a backup"):
        restore(embedded(tmp_path / "again"), tmp_path)
    with pytest.raises(FailedPrecondition, match="expected the database"):
        back_up(embedded(tmp_path / "nowhere"), copy)


@pytest.mark.parametrize("elsewhere", [{"database_url": "postgresql:///lorry"}, {"blobs": "s3://bucket"}])
def test_a_registry_that_is_not_embedded_is_backed_up_with_its_own_tools(
    tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    settings = Settings(data_dir=tmp_path, **elsewhere)
    with pytest.raises(FailedPrecondition, match="pg_dump"):
        back_up(settings, tmp_path / "copy")
    with pytest.raises(FailedPrecondition, match="pg_dump"):
        restore(settings, tmp_path / "copy")


async def test_the_commands_say_what_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    async with running_registry(live) as target:
        await fill(target, range(1))
    monkeypatch.setenv("LORRY_REGISTRY_DATA_DIR", str(live))
    assert main(["backup", str(copy)]) == 0
    assert "backed up the database and 2 blobs" in capsys.readouterr().err
    assert main(["restore", str(copy)]) == 1
    monkeypatch.setenv("LORRY_REGISTRY_DATA_DIR", str(tmp_path / "again"))
    assert main(["restore", str(copy)]) == 0
    assert "restored the database and 2 blobs" in capsys.readouterr().err


async def test_what_sqlite_left_beside_a_database_that_is_gone_is_not_joined_to_another(tmp_path: Path) -> None:
    live, copy, again = tmp_path / "live", tmp_path / "copy", tmp_path / "again"
    async with running_registry(live) as target:
        await fill(target, range(1))
        back_up(embedded(live), copy)
    again.mkdir()
    database = Path(embedded(again).database.removeprefix("sqlite:///"))
    stale = database.with_name(f"{database.name}-wal")
    stale.write_bytes(b"changes of another")

    with pytest.raises(FailedPrecondition, match="-wal: restore into an empty data folder"):
        restore(embedded(again), copy)
    stale.unlink()
    assert restore(embedded(again), copy).blobs
    (copy / f"{module._DATABASE}-wal").write_bytes(b"changes of another")
    back_up(embedded(again), copy)
    assert not (copy / f"{module._DATABASE}-wal").exists()


def spoil(folder: Path) -> None:
    """Without its database, and its blobs are others."""
    Path(embedded(folder).database.removeprefix("sqlite:///")).unlink()
    for path in blob_files(folder).values():
        path.chmod(0o600)
        path.write_bytes(b"damaged")


async def test_a_damaged_blob_that_lies_there_already_is_made_whole(tmp_path: Path) -> None:
    live, copy, again = tmp_path / "live", tmp_path / "copy", tmp_path / "again"
    async with running_registry(live) as target:
        await fill(target, range(1))
        before = await contents(target)
        back_up(embedded(live), copy)
    restore(embedded(again), copy)
    spoil(again)
    restore(embedded(again), copy)

    async with running_registry(again) as target:
        assert await contents(target) == before
