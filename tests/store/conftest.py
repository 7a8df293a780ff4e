"""Catalogues on both databases."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.migrate import upgrade
from tests.support.stocked import open_stocked


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with all tables, to be copied."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """A database of the test's own, migrated."""
    return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'catalog.db')}"


@pytest.fixture
def reopen(url: str) -> Iterator[Callable[[], SqlCatalog]]:
    """Opens one more catalogue on the test's database, as another process would."""
    opened: list[SqlCatalog] = []

    def one_more() -> SqlCatalog:
        opened.append(open_stocked(url))
        return opened[-1]

    yield one_more
    for catalog in opened:
        catalog.close()


@pytest.fixture
def catalog(reopen: Callable[[], SqlCatalog]) -> SqlCatalog:
    return reopen()
