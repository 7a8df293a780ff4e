"""Who is woken, across processes and across the database's own restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from adapter_registry.store.catalog import SqlCatalog
from tests.store.test_postgres import cut_connections
from tests.suites.catalog_values import publish

DEADLINE = 30.0


class Ear:
    """Counts wake-ups, and waits for what they are about."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def wake(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE)


@pytest.mark.postgres
class TestPostgres:
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.fixture
    def ear(self) -> Ear:
        return Ear()

    @pytest.fixture
    def live(self, catalog: SqlCatalog, ear: Ear) -> Iterator[Callable[[], bool]]:
        with closing(catalog.listen(ear.wake)) as listening:
            ear.wait(lambda: listening.live)
            yield lambda: listening.live

    def test_a_commit_of_another_process_wakes(
        self, reopen: Callable[[], SqlCatalog], ear: Ear, live: Callable[[], bool]
    ) -> None:
        before = ear.count
        publish(reopen())
        ear.wait(lambda: ear.count > before)
        assert live()

    def test_a_commit_that_tells_nothing_wakes_nobody(
        self, catalog: SqlCatalog, ear: Ear, live: Callable[[], bool]
    ) -> None:
        publish(catalog)
        publish(catalog, seed=2)
        ear.wait(lambda: ear.count >= 3)
        before = ear.count
        publish(catalog)  # is there already
        publish(catalog, seed=3)
        ear.wait(lambda: ear.count > before)
        assert ear.count == before + 1
        assert live()

    def test_it_listens_again_after_its_connection_was_cut(
        self, catalog: SqlCatalog, url: str, ear: Ear, live: Callable[[], bool]
    ) -> None:
        cut_connections(url)
        ear.wait(lambda: not live())
        ear.wait(live)
        before = ear.count
        publish(catalog)
        ear.wait(lambda: ear.count > before)

    def test_nobody_is_woken_any_more_after_the_end(self, catalog: SqlCatalog, ear: Ear) -> None:
        listening = catalog.listen(ear.wake)
        ear.wait(lambda: listening.live)
        listening.close()
        before = ear.count
        publish(catalog)
        assert ear.count == before
        assert "lorry-listen" not in [thread.name for thread in threading.enumerate()]


class TestSqlite:
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url

    def test_it_says_that_it_does_not_hear_other_processes(
        self, catalog: SqlCatalog, reopen: Callable[[], SqlCatalog]
    ) -> None:
        ear = Ear()
        with closing(catalog.listen(ear.wake)) as listening:
            publish(reopen())
            assert (listening.live, ear.count) == (False, 0)
            publish(catalog, seed=2)
            assert ear.count == 1
        publish(catalog, seed=3)
        assert ear.count == 1
