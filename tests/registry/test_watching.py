"""What watchers get, how little it costs, and who may hear what; the catalogue is real."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_registry.domain.acting import Actor, Permission, Rights, act_as, acting
from adapter_registry.domain.garbage import Ages
from adapter_registry.domain.records import Event, EventKind
from adapter_registry.service import watching
from adapter_registry.service.pool import Pool
from adapter_registry.service.watching import Watcher
from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.database import create_engine_for
from adapter_registry.store.events import tell_each
from adapter_registry.store.migrate import upgrade
from lorry.errors import Draining, PermissionDenied, ResumeTokenExpired, StorageUnavailable, Unauthenticated
from tests.suites.catalog_values import a_base, digest
from tests.support.registry import DEADLINE

READER = Actor("reader", Rights({"team": Permission.READ}))


class CountingCatalog(SqlCatalog):
    """Counts what is read of the outbox, and can be out of reach."""

    def __init__(self, url: str) -> None:
        super().__init__(create_engine_for(url, 8))
        self.reads = 0
        self.away = threading.Event()

    def events(self, after: int, namespaces: frozenset[str] | None, limit: int) -> list[Event]:
        self.reads += 1
        return super().events(after, namespaces, limit)

    def last_event(self) -> int:
        if self.away.is_set():
            raise StorageUnavailable("the database is away")
        return super().last_event()

    def happen(self, count: int, namespace: str = "team") -> None:
        """So many events of a namespace, in one transaction."""
        with self._database.write() as session:
            row = type("Adapter", (), {"namespace": namespace, "name": "cat"})
            tell_each(session, EventKind.VERSION_CREATED, row, [(digest(n), n) for n in range(count)])


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    url = f"sqlite:///{tmp_path}/catalog.db"
    upgrade(url)
    return url


@asynccontextmanager
async def a_watcher(catalog: SqlCatalog, draining: asyncio.Event | None = None) -> AsyncIterator[Watcher]:
    queries = Pool(8, "catalog")
    watcher = Watcher(catalog, queries, draining or asyncio.Event())
    async with watcher.running():
        yield watcher
    queries.close()


@pytest.fixture
async def catalog(url: str) -> AsyncIterator[CountingCatalog]:
    catalog = CountingCatalog(url)
    yield catalog
    catalog.close()


@pytest.fixture
async def watcher(catalog: CountingCatalog) -> AsyncIterator[Watcher]:
    async with a_watcher(catalog) as watcher:
        yield watcher


async def take(count: int, watcher: Watcher, behind: str = "0", namespace: str | None = None) -> list[Event]:
    got: list[Event] = []
    async with asyncio.timeout(DEADLINE), aclosing(watcher.watch(behind, namespace)) as events:
        async for event in events:
            got.append(event)
            if len(got) == count:
                return got
    raise AssertionError("the watch ended")


async def test_whoever_is_far_behind_gets_everything_once_and_in_order(
    catalog: CountingCatalog, watcher: Watcher
) -> None:
    catalog.happen(700)
    async with asyncio.timeout(DEADLINE), aclosing(watcher.watch("0", None)) as events:
        numbers = [(await anext(events)).number for _ in range(100)]
        await asyncio.to_thread(catalog.happen, 2_500)
        numbers += [(await anext(events)).number for _ in range(3_100)]
    assert numbers == [*range(700), *range(2_500)]


async def test_a_hundred_watchers_share_one_look(catalog: CountingCatalog, watcher: Watcher) -> None:
    catalog.happen(1)
    reading = [asyncio.create_task(take(2, watcher, "1")) for _ in range(100)]
    while watcher.watchers < 100:  # noqa: ASYNC110 - nothing tells when they are there
        await asyncio.sleep(0.01)
    before = catalog.reads
    catalog.happen(2)
    everybody = await asyncio.gather(*reading)
    assert [[event.sequence for event in got] for got in everybody] == [[2, 3]] * 100
    assert catalog.reads - before < 10


async def test_what_a_watcher_may_hear_is_judged_whenever_something_is_sent(
    catalog: CountingCatalog, watcher: Watcher
) -> None:
    rights = Rights({"team": Permission.READ, "other": Permission.READ})

    async def judge() -> None:
        act_as(Actor("reader", rights))

    with acting(Actor("reader", rights)):
        async with asyncio.timeout(DEADLINE), aclosing(watcher.watch("0", None, judge)) as events:
            catalog.happen(1, "other")
            assert (await anext(events)).namespace == "other"
            rights = Rights({"team": Permission.READ})
            catalog.happen(1, "other")
            catalog.happen(1, "team")
            assert (await anext(events)).namespace == "team"
        async with asyncio.timeout(DEADLINE), aclosing(watcher.watch("0", "team", judge)) as events:
            assert (await anext(events)).namespace == "team"
            rights = Rights()
            catalog.happen(1, "team")
            with pytest.raises(PermissionDenied):
                await anext(events)


async def test_who_is_not_known_any_more_is_sent_away_though_nothing_happens(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_JUDGED_SECONDS", 0.01)
    judged = 0

    async def judge() -> None:
        nonlocal judged
        judged += 1
        if judged > 3:
            raise Unauthenticated("revoked")

    async with asyncio.timeout(DEADLINE), aclosing(watcher.watch("", None, judge)) as events:
        with pytest.raises(Unauthenticated):
            await anext(events)


async def test_an_event_of_another_process_is_told(url: str, watcher: Watcher) -> None:
    reading = asyncio.create_task(take(1, watcher, "0"))
    other = CountingCatalog(url)
    await asyncio.to_thread(other.happen, 1)
    assert [event.sequence for event in await reading] == [1]
    other.close()


async def test_a_reader_hears_its_namespaces_and_the_bases(catalog: CountingCatalog, watcher: Watcher) -> None:
    catalog.happen(1, "crew")
    catalog.add_base(a_base())
    catalog.happen(1, "team")
    with acting(READER):
        old = await take(2, watcher)
        reading = asyncio.create_task(take(2, watcher, str(old[-1].sequence)))
    catalog.happen(1, "crew")
    catalog.happen(2, "team")
    assert [event.namespace for event in old + await reading] == ["", "team", "team", "team"]


async def test_a_reader_may_name_its_own_namespace_and_no_other(catalog: CountingCatalog, watcher: Watcher) -> None:
    catalog.add_base(a_base())
    catalog.happen(1, "team")
    with acting(READER):
        assert [event.namespace for event in await take(1, watcher, namespace="team")] == ["team"]
        for namespace in ("crew", "nobodys"):
            with pytest.raises(PermissionDenied):
                await take(1, watcher, namespace=namespace)


async def test_going_on_behind_forgotten_events_is_refused(catalog: CountingCatalog) -> None:
    catalog.happen(5)
    catalog.happen(5)
    later = datetime.now(UTC) + timedelta(days=1)
    catalog.forget(Ages(events=later, uploads=later, audit=None), 100)
    async with a_watcher(catalog) as watcher:
        for behind in ("1", "8"):
            with pytest.raises(ResumeTokenExpired):
                await take(1, watcher, behind)
        for behind in ("9", "0"):
            assert [event.sequence for event in await take(1, watcher, behind)] == [10]


async def test_while_the_catalogue_does_not_answer_nobody_is_left_to_believe_that_nothing_happens(
    catalog: CountingCatalog, watcher: Watcher
) -> None:
    catalog.happen(1)
    reading = asyncio.create_task(take(1, watcher, "1"))
    while not watcher.watchers:  # noqa: ASYNC110 - nothing tells when it is there
        await asyncio.sleep(0.01)
    catalog.away.set()
    catalog.happen(1)
    with pytest.raises(StorageUnavailable):
        await reading
    catalog.away.clear()

    async def again() -> list[Event]:
        while True:
            try:
                return await take(1, watcher, "1")
            except StorageUnavailable:
                await asyncio.sleep(0.01)

    assert [event.sequence for event in await again()] == [2]


async def test_a_watch_ends_when_the_registry_drains(catalog: CountingCatalog) -> None:
    draining = asyncio.Event()
    async with a_watcher(catalog, draining) as watcher:
        reading = asyncio.create_task(take(1, watcher))
        while not watcher.watchers:  # noqa: ASYNC110 - nothing tells when it is there
            await asyncio.sleep(0.01)
        draining.set()
        with pytest.raises(Draining):
            await reading


async def test_nobody_looks_while_nobody_watches(catalog: CountingCatalog, watcher: Watcher) -> None:
    catalog.happen(1)
    await take(1, watcher)
    assert watcher._tail._patience(type("Deaf", (), {"live": False, "close": None})) is None
