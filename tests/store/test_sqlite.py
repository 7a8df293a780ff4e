"""The catalogue on SQLite: the suite, and what is SQLite's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, text

from adapter_registry.domain.blobs import Reservation
from adapter_registry.domain.filters import parse_filter
from adapter_registry.domain.records import Page
from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.database import create_engine_for
from adapter_registry.store.models import Row
from lorry.errors import StorageUnavailable
from tests.suites.catalog import CatalogSuite
from tests.suites.catalog_values import a_manifest, adapter, publish, ref
from tests.support.stocked import StockedCatalog

OURS = frozenset({"default"})
# Publishes for ever, and says so after each version.
PUBLISHER = """
import sys
from tests.support.stocked import open_stocked
from tests.suites.catalog_values import publish
catalog = open_stocked(sys.argv[1])
for seed in range(1_000_000):
    print(publish(catalog, seed=seed, alias="prod"), flush=True)
"""


@pytest.fixture
def url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def database_file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


class TestSqliteCatalog(CatalogSuite):
    """All of it, on a file."""


def test_every_connection_is_durable_and_checks_its_keys(url: str) -> None:
    engine = create_engine_for(url, 2)
    with engine.connect() as one, engine.connect() as two:
        for connection in (one, two):
            settings = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            told = [connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in settings]
            assert told == ["wal", 2, 1, 10_000]
    engine.dispose()


def test_what_was_acknowledged_survives_kill_9(url: str, reopen: Callable[[], SqlCatalog]) -> None:
    with subprocess.Popen([sys.executable, "-c", PUBLISHER, url], stdout=subprocess.PIPE, text=True) as publisher:
        assert publisher.stdout is not None
        acknowledged = [publisher.stdout.readline().strip() for _ in range(20)]
        publisher.kill()
        acknowledged += publisher.stdout.read().split()
    catalog = reopen()
    kept = [v.digest for v in catalog.list_versions(adapter("cat"), Page(1000)).items][::-1]
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) <= len(acknowledged) + 1  # the one that was in hand
    assert [e.digest for e in catalog.events(0, None, 10_000)] == [d for d in kept for _ in range(2)]
    assert catalog.resolve(ref("cat:prod")).digest == kept[-1]


def test_a_full_disk_refuses_writes_and_loses_nothing(url: str) -> None:
    engine = create_engine_for(url, 1)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count=60"))
    full = StockedCatalog(engine)
    published: list[str] = []
    with pytest.raises(StorageUnavailable):
        published.extend(publish(full, seed=seed) for seed in range(1_000))
    kept = [v.digest for v in full.list_versions(adapter("cat"), Page(1000)).items][::-1]
    assert kept == published
    full.close()


def test_a_file_that_is_no_database_is_unavailable(database_file: Path, url: str) -> None:
    database_file.write_bytes(b"no database" * 1_000)
    spoilt = SqlCatalog(create_engine_for(url, 1))
    with pytest.raises(StorageUnavailable):
        spoilt.probe()
    spoilt.close()


@pytest.fixture
def plans(catalog: SqlCatalog) -> Iterator[list[str]]:
    """How SQLite finds the rows of each query from now on."""
    engine = catalog._database._engine
    found: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _explain(_c: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.startswith("SELECT"):
            rows = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()  # type: ignore[attr-defined]
            found.extend(row[3] for row in rows)

    yield found
    event.remove(engine, "before_cursor_execute", _explain)


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.resolve(ref("cat")),
        lambda c: c.resolve(ref("cat@1")),
        lambda c: c.resolve(ref("cat:prod")),
        lambda c: c.resolve(ref(f"cat@{a_manifest(1).digest}")),
        lambda c: c.list_versions(adapter("cat"), Page(1)),
        lambda c: c.list_adapters(None, (), Page(1)),
        lambda c: c.list_adapters(OURS, parse_filter("rank=4 AND labels.a!=b AND base!=tiny"), Page(1)),
        lambda c: c.list_adapters(OURS | {"team"}, parse_filter("module=q AND alias=prod"), Page(1)),
        lambda c: c.list_versions(adapter("cat"), Page(1), parse_filter("created>2020-01-01 AND alias!=prod")),
        lambda c: c.renew_leases("gpu-1", [ref(f"cat@{a_manifest(1).digest}")], timedelta(seconds=9)),
        lambda c: c.rollback_alias(adapter("cat"), "both", None),
        lambda c: c.list_aliases(adapter("cat"), Page(1)),
        lambda c: c.alias_history(adapter("cat"), "prod", Page(1)),
        lambda c: c.events(1, None, 10),
        lambda c: c.events(1, OURS, 10),
        lambda c: publish(c, "child", 9, parents=(c.resolve(ref("cat@2")).digest,)),
        lambda c: c.yank_version(ref("cat@2"), "why"),
        lambda c: c.reserve(Reservation("team", a_manifest(1).digest, 0), 1),
        lambda c: c.record(a_manifest(1).digest, 1, b"", "team", Reservation("team", a_manifest(1).digest, 0)),
    ],
)
def test_no_call_sorts_or_reads_a_whole_table(
    catalog: SqlCatalog, plans: list[str], call: Callable[[SqlCatalog], object]
) -> None:
    two_cats(catalog)
    plans.clear()
    call(catalog)
    in_order = "SCAN adapters USING INDEX"
    assert [step for step in plans if "TEMP B-TREE" in step] == []
    assert [step for step in plans if step.startswith("SCAN") and not step.startswith(in_order)] == []


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.list_adapters(OURS, parse_filter("fits=tiny AND parent!=sha256:" + "0" * 64), Page(1)),
        lambda c: c.get_lineage(ref("cat"), 10),
        lambda c: c.list_leases(adapter("cat"), Page(1)),
        lambda c: c.delete_version(ref("cat@2"), force=False),
        lambda c: c.delete_adapter(adapter("cat"), force=False),
        lambda c: c.finish_deletions(),
        lambda c: c.expire_versions(10, dry_run=False),
    ],
)
def test_what_is_sorted_is_found_by_index(
    catalog: SqlCatalog, plans: list[str], call: Callable[[SqlCatalog], object]
) -> None:
    two_cats(catalog)
    catalog.update_adapter(adapter("cat"), keep_last=1)
    plans.clear()
    call(catalog)
    tables = [table for table in Row.metadata.tables if table != "adapters"]
    assert [step for step in plans for table in tables if step.startswith(f"SCAN {table}")] == []


def two_cats(catalog: SqlCatalog) -> None:
    """Two versions, of which the first has two aliases; one of them was moved."""
    for seed in (1, 2):
        publish(catalog, "cat", seed, alias="prod" if seed == 1 else None)
    for number in (2, 1):
        catalog.set_alias(ref(f"cat@{number}"), "both", None)
