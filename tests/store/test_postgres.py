"""The catalogue on PostgreSQL: the suite, and what is PostgreSQL's own."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import text

from adapter_registry.domain.records import Page
from adapter_registry.store.catalog import SqlCatalog, open_catalog
from adapter_registry.store.migrate import upgrade
from lorry.errors import StorageUnavailable
from tests.suites.catalog import CatalogSuite
from tests.suites.catalog_values import publish, ref
from tests.support.postgres import PostgresServer
from tests.support.stocked import open_stocked

pytestmark = pytest.mark.postgres

CUT_ALL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


class TestPostgresCatalog(CatalogSuite):
    """All of it, on a database of its own."""


def cut_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(CUT_ALL)


def test_a_restart_of_the_server_is_not_noticed_between_calls(catalog: SqlCatalog, url: str) -> None:
    publish(catalog)
    cut_connections(url)
    assert catalog.resolve(ref("cat")).number == 1
    cut_connections(url)
    publish(catalog, seed=2)


def test_a_connection_cut_within_a_call_is_unavailable_and_writes_nothing(catalog: SqlCatalog, url: str) -> None:
    def cut_within() -> None:
        with catalog._database.write() as session:
            session.execute(text("DELETE FROM events"))
            cut_connections(url)

    publish(catalog)
    before = catalog.events(0, None, 10)
    with pytest.raises(StorageUnavailable):
        cut_within()
    assert catalog.events(0, None, 10) == before


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_usual_spellings_of_the_url_are_understood(url: str, scheme: str) -> None:
    catalog = open_catalog(url.replace("postgresql", scheme, 1))
    catalog.probe()
    catalog.close()


def test_a_reading_transaction_cannot_write(catalog: SqlCatalog) -> None:
    with pytest.raises(StorageUnavailable, match="ReadOnlySqlTransaction"), catalog._database.read() as session:
        session.execute(text("DELETE FROM events"))


def test_names_sort_by_bytes_whatever_the_locale(postgres_server: PostgresServer) -> None:
    names = ["a-b", "a.b", "a0b", "a_b", "aab"]
    with postgres_server.empty("LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'") as url:
        upgrade(url)
        catalog = open_stocked(url)
        for name in reversed(names):
            publish(catalog, name)
        assert [a.name for a in catalog.list_adapters(None, (), Page()).items] == names
        catalog.close()


def test_a_turn_that_was_lost_with_its_connection_says_so_and_is_free_again(catalog: SqlCatalog, url: str) -> None:
    turn = catalog.take_turn("gc")
    cut_connections(url)
    with pytest.raises(StorageUnavailable):
        turn.confirm()
    turn.close()
    catalog.take_turn("gc").close()


def test_operators_see_who_has_the_turn(catalog: SqlCatalog, url: str) -> None:
    turn = catalog.take_turn("gc")
    with psycopg.connect(url) as connection:
        names = [name for (name,) in connection.execute("SELECT application_name FROM pg_stat_activity")]
    assert any(name.startswith("lorry gc since ") for name in names)
    turn.close()


def test_a_writer_sees_what_was_committed_before_its_turn_whatever_the_databases_default(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE {connection.info.dbname} SET default_transaction_isolation='repeatable read'"
        )
    catalog = open_stocked(url)
    try:
        with catalog._database.write() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
        with catalog._database.read() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
    finally:
        catalog.close()
