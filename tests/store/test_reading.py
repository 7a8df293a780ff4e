"""What a look-up costs: so many queries, whatever the reference and however many rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from adapter_registry.domain.records import Page
from adapter_registry.store import reading
from adapter_registry.store.catalog import SqlCatalog
from tests.suites.catalog_values import adapter, publish, ref


@pytest.fixture(params=["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@contextmanager
def queries(catalog: SqlCatalog) -> Iterator[list[str]]:
    """What is asked of the database while the block runs."""
    asked: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            asked.append(statement)

    engine = catalog._database.engine
    event.listen(engine, "before_cursor_execute", note)
    yield asked
    event.remove(engine, "before_cursor_execute", note)


def test_what_a_reference_means_is_one_query_however_it_is_written(catalog: SqlCatalog) -> None:
    digest = publish(catalog, alias="prod")
    for reference in ("cat", "cat@1", f"cat@{digest}", "cat:prod"):
        for call in (catalog.resolve, catalog.get_version):
            with queries(catalog) as asked:
                assert call(ref(reference)).aliases == ("prod",)
            assert len(asked) == 1


def test_a_page_takes_as_many_queries_as_a_single_entry(catalog: SqlCatalog) -> None:
    for seed in range(12):
        publish(catalog, seed=seed)
        publish(catalog, f"dog-{seed}", seed=seed)
    counts = []
    for size in (1, 10):
        with queries(catalog) as asked:
            catalog.list_versions(adapter("cat"), Page(size))
            catalog.list_adapters(None, (), Page(size))
        counts.append(len(asked))
    assert counts == [5, 5]


def test_a_page_of_adapters_takes_what_a_message_holds(catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        publish(catalog, f"dog-{seed}", seed=seed, alias="prod")
    for number in range(40):
        catalog.set_alias(ref("dog-2"), f"alias-{number}", None)
    monkeypatch.setattr(reading, "_PAGE_BYTES", 4_000)  # two of the small ones, and none beside the large one

    pages, token = [], ""
    while True:
        page = catalog.list_adapters(None, (), Page(10, token))
        pages.append([each.name for each in page.items])
        token = page.next_token
        if not token:
            break

    assert [name for names in pages for name in names] == [f"dog-{seed}" for seed in range(6)]
    assert ["dog-2"] in pages
    assert len(pages) > 2
