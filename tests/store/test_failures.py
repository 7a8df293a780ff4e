"""What the store says when its database fails it, on both databases, and that it goes on afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, event, text

from adapter_registry.store import database
from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.database import create_engine_for, for_writing
from lorry.errors import InvalidInput, StorageUnavailable
from tests.suites.catalog_values import publish, ref
from tests.support.stocked import StockedCatalog


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An engine that waits for locks no longer than 50 ms."""
    engine = create_engine_for(url, 4)
    impatient = "PRAGMA busy_timeout=50" if engine.dialect.name == "sqlite" else "SET lock_timeout='50ms'"

    @event.listens_for(engine, "connect")
    def _impatient(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute(impatient)
        cursor.close()
        connection.commit()  # type: ignore[attr-defined]

    yield engine
    engine.dispose()


@pytest.fixture
def impatient(engine: Engine) -> SqlCatalog:
    return StockedCatalog(engine)


def test_a_writer_that_another_process_keeps_waiting_is_told_to_come_back(impatient: SqlCatalog, url: str) -> None:
    other = create_engine_for(url, 1)
    with for_writing(other).begin():
        with pytest.raises(StorageUnavailable) as refused:
            publish(impatient)
        assert refused.value.retryable
        impatient.probe()  # reading goes on
    other.dispose()
    publish(impatient)


def test_a_writer_that_another_thread_keeps_waiting_is_told_to_come_back(
    catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PATIENCE_S", 0.05)
    with catalog._database.write(), pytest.raises(StorageUnavailable, match="other writers"):
        publish(catalog)
    publish(catalog)


def test_when_all_connections_are_taken_the_caller_is_told_to_come_back(url: str) -> None:
    engine = create_engine_for(url, 1)
    engine.pool._timeout = 0.05  # type: ignore[attr-defined]
    crowded = SqlCatalog(engine)
    with crowded._database.read() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(StorageUnavailable, match="TimeoutError"):
            crowded.probe()
    crowded.probe()
    crowded.close()


def test_a_write_that_fails_half_way_is_undone(catalog: SqlCatalog) -> None:
    def fail() -> None:
        with catalog._database.write() as session:
            session.execute(text("INSERT INTO events VALUES (7, 'x', '', '', '', 0, '', '2026-01-01')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert catalog.last_event() == 0
    publish(catalog)


def test_a_reading_transaction_sees_one_state(catalog: SqlCatalog, reopen: Callable[[], SqlCatalog]) -> None:
    publish(catalog, seed=1)
    count = text("SELECT count(*) FROM versions")
    with reopen()._database.read() as session:
        before = session.scalar(count)
        publish(catalog, seed=2)
        assert session.scalar(count) == before == 1
    assert catalog.resolve(ref("cat")).number == 2


@pytest.mark.parametrize("many", [1, 8])
def test_more_threads_than_connections_are_served(url: str, many: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    narrow = StockedCatalog(create_engine_for(url, 1))
    publish(narrow)
    with ThreadPoolExecutor(many) as pool:
        answers = list(pool.map(lambda _: narrow.resolve(ref("cat")).number, range(32)))
    narrow.close()
    assert answers == [1] * 32


@pytest.mark.parametrize("target", ["postgresql://user:secret@127.0.0.1:1/db", "sqlite:////nowhere/secret/x.db"])
def test_a_database_that_is_not_there_is_unavailable_and_no_secret_is_told(target: str) -> None:
    nowhere = SqlCatalog(create_engine_for(target, 1))
    with pytest.raises(StorageUnavailable) as refused:
        nowhere.probe()
    assert "secret" not in refused.value.message
    nowhere.close()


def test_text_that_the_database_cannot_hold_is_the_callers_fault(catalog: SqlCatalog, url: str) -> None:
    publish(catalog)
    if url.startswith("sqlite"):
        assert catalog.yank_version(ref("cat@1"), "a\0b").yank_reason == "a\0b"
    else:
        with pytest.raises(InvalidInput):
            catalog.yank_version(ref("cat@1"), "a\0b")
        assert catalog.get_version(ref("cat@1")).yank_reason is None
