"""The catalogue on SQLite: the suite, and what is SQLite's own."""

from __future__ import annotations

import pytest

from tests.suites.catalog import CatalogSuite


@pytest.fixture
def url(sqlite_url: str) -> str:
    return sqlite_url


class TestSqliteCatalog(CatalogSuite):
    """All of it, on a file."""
