"""Registries that break one rule each, and the check that notices: an existing rule of a suite, or a crash."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from adapter_registry.blobs.filesystem import FileStore
from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.migrate import upgrade
from lorry import RegistryClient
from lorry.errors import LorryError
from lorry.format.digest import digest_of
from tests.blobs import test_filesystem
from tests.chaos.crashing import bundle, crash, is_whole, push, upload, versions_of
from tests.chaos.home import Home, embedded
from tests.chaos.mutants import MUTANTS, broken
from tests.suites.blob_store import BlobStoreSuite
from tests.suites.catalog_leases import LeaseRules
from tests.suites.catalog_upkeep import UpkeepRules
from tests.support.adapters import BASE_NAME, base_for
from tests.support.blobs import Place, blob, feed
from tests.support.stocked import open_stocked

# What a check says: pytest.raises fails with an exception of its own.
NOTICED = (AssertionError, pytest.fail.Exception)

Rule = Callable[[Home, RegistryClient, Path], Awaitable[None]]

leases, upkeep, blobs = LeaseRules(), UpkeepRules(), BlobStoreSuite()
BY_THE_CATALOGUE: dict[str, Callable[[SqlCatalog], None]] = {
    "no-lease-at-delete": leases.test_a_version_in_use_is_deleted_by_force_alone,
    "published-without-looking": upkeep.test_a_condemned_blob_can_be_neither_sent_nor_named_until_its_row_is_gone,
    "swept-though-named": upkeep.test_condemning_looks_again,
    "swept-without-grace": upkeep.test_what_no_version_names_is_garbage_once_its_grace_is_over,
    "swept-without-condemning": upkeep.test_condemning_looks_again,
}


def a_size_is_that_of_the_bytes(place: Place) -> None:
    store, data = place.open(), blob(1000)
    upload = store.upload(digest_of(data), len(data) + 1)
    feed(upload, data)
    with pytest.raises(LorryError):
        upload.finish()
    upload.close()
    assert store.missing([digest_of(data)]) == [digest_of(data)]


BY_THE_STORE: dict[str, Callable[[Place], None]] = {
    "no-digest-check": partial(blobs.test_wrong_bytes_are_refused_and_thrown_away, large=False),
    "size-of-the-header": a_size_is_that_of_the_bytes,
}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "catalog.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def catalog(migrated: Path, tmp_path: Path) -> Iterator[SqlCatalog]:
    catalog = open_stocked(f"sqlite:///{shutil.copy(migrated, tmp_path)}")
    yield catalog
    catalog.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(open=lambda: FileStore(tmp_path), granule=1, damage=lambda _: None)


@pytest.mark.parametrize("mutant", BY_THE_CATALOGUE)
def test_a_rule_of_the_catalogue_notices(mutant: str, catalog: SqlCatalog) -> None:
    with broken(mutant), pytest.raises(NOTICED):
        BY_THE_CATALOGUE[mutant](catalog)


def test_a_size_that_is_not_that_of_the_bytes_is_refused(place: Place) -> None:
    a_size_is_that_of_the_bytes(place)


@pytest.mark.parametrize("mutant", BY_THE_STORE)
def test_a_rule_of_the_store_notices(mutant: str, place: Place) -> None:
    with broken(mutant), pytest.raises(NOTICED):
        BY_THE_STORE[mutant](place)


def test_the_order_of_syncs_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with broken("folder-not-synced"), pytest.raises(NOTICED):
        test_filesystem.test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path / "s", monkeypatch)


# Crashes. The same checks pass where no rule is broken.


async def bytes_come_before_their_row(home: Home, client: RegistryClient, folder: Path) -> None:
    await crash(home, "upload.verified", upload(client, folder, b"half a blob"))
    await is_whole(home, client)


async def an_answer_comes_behind_the_commit(home: Home, client: RegistryClient, folder: Path) -> None:
    await crash(home, "upload.before-row", upload(client, folder, b"answered"))
    await is_whole(home, client)


async def an_alias_comes_with_its_version(home: Home, client: RegistryClient, folder: Path) -> None:
    await crash(home, "alias.in-transaction", push(client, bundle(folder), "team/adapter"))
    for digest in await versions_of(client, "team/adapter"):
        assert dict((await client.adapter("team/adapter")).aliases) == {"prod": digest}


BY_A_CRASH = {
    "row-before-bytes": bytes_come_before_their_row,
    "answer-before-commit": an_answer_comes_behind_the_commit,
    "alias-in-a-transaction-of-its-own": an_alias_comes_with_its_version,
}


@asynccontextmanager
async def a_registry(folder: Path, mutant: str) -> AsyncIterator[tuple[Home, RegistryClient]]:
    with embedded(folder) as home:
        await asyncio.to_thread(home.start, mutant=mutant)
        async with home.client() as client:
            await client.register_base_model(BASE_NAME, base_for())
            yield home, client


@pytest.mark.parametrize("mutant", BY_A_CRASH)
async def test_a_crash_notices(mutant: str, tmp_path: Path) -> None:
    async with a_registry(tmp_path, mutant) as (home, client):
        with pytest.raises(NOTICED):
            await BY_A_CRASH[mutant](home, client, tmp_path)


@pytest.mark.parametrize("rule", BY_A_CRASH.values())
async def test_a_registry_that_breaks_no_rule_passes(rule: Rule, tmp_path: Path) -> None:
    async with a_registry(tmp_path, "") as (home, client):
        await rule(home, client, tmp_path)


def test_every_mutant_has_a_check() -> None:
    assert {*BY_THE_CATALOGUE, *BY_THE_STORE, *BY_A_CRASH, "folder-not-synced"} == set(MUTANTS)
