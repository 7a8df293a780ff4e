"""What happens to bases and versions while verdicts on them are being found, on both databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.judging import Judge, Judged
from lorry.format.compatibility import CarryOver
from tests.suites.catalog_values import ref
from tests.suites.verdict_values import base_id, judge_all, publish, stored, variant


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Does something once, as another process would, right behind the next verdict that is found."""

    def arrange(deed: Callable[[], object]) -> None:
        deeds, found = [deed], Judge.on

        def on(judge: Judge, *arguments: object) -> Judged:
            judged = found(judge, *arguments)  # type: ignore[arg-type] # as they came
            if deeds:
                deeds.pop()()
            return judged

        monkeypatch.setattr(Judge, "on", on)

    return arrange


Meanwhile = Callable[[Callable[[], object]], None]


def test_a_base_that_comes_while_a_version_is_published_is_judged_with_it(
    catalog: SqlCatalog, reopen: Callable[[], SqlCatalog], meanwhile: Meanwhile
) -> None:
    other = reopen()
    catalog.add_base(variant(1, None))
    meanwhile(lambda: other.add_base(variant(2, 1)))
    publish(catalog)
    assert stored(catalog, 2) == ["cat"]


def test_a_family_that_changes_while_a_version_is_published_counts_as_it_is_then(
    catalog: SqlCatalog, reopen: Callable[[], SqlCatalog], meanwhile: Meanwhile
) -> None:
    other = reopen()
    for base in (variant(2, 1), variant(1, None)):
        catalog.add_base(base)
    meanwhile(lambda: other.update_base("base-2", derived_from=None, carry_over=CarryOver.REFUSE))
    publish(catalog)
    assert stored(catalog, 2) == []
    assert other.judge_versions(base_id(2), 0, 10) is None
    other.update_base("base-2", derived_from=None, carry_over=CarryOver.ALLOW)
    judge_all(other, 2)
    assert stored(catalog, 2) == ["cat"]


def test_a_verdict_that_a_change_of_the_family_overtook_does_not_replace_the_newer_one(
    catalog: SqlCatalog, reopen: Callable[[], SqlCatalog], meanwhile: Meanwhile
) -> None:
    other = reopen()
    catalog.add_base(variant(1, None))
    publish(catalog)
    catalog.add_base(variant(2, 1, CarryOver.REFUSE))

    def change() -> None:
        other.update_base("base-2", derived_from=None, carry_over=CarryOver.ALLOW)
        judge_all(other, 2)

    meanwhile(change)
    catalog.judge_versions(base_id(2), 0, 10)
    assert stored(catalog, 2) == ["cat"]


def test_a_version_that_is_deleted_while_it_is_judged_leaves_nothing_behind(
    catalog: SqlCatalog, reopen: Callable[[], SqlCatalog], meanwhile: Meanwhile
) -> None:
    other = reopen()
    catalog.add_base(variant(1, None))
    for seed in (1, 2):
        publish(catalog, f"cat-{seed}", seed)
    catalog.add_base(variant(2, 1))
    meanwhile(lambda: other.delete_version(ref("cat-1@1"), force=True))
    judge_all(catalog, 2, batch=10)
    assert stored(catalog, 2) == ["cat-2"]
