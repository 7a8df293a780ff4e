"""The catalogue on PostgreSQL: the suite, and what is PostgreSQL's own."""

from __future__ import annotations

import pytest

from tests.suites.catalog import CatalogSuite

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


class TestPostgresCatalog(CatalogSuite):
    """All of it, on a database of its own."""
