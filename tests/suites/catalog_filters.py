"""What a catalogue promises about filters on modules, parents, verdicts, aliases and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.filters import VERSION_FIELDS, parse_filter
from adapter_registry.domain.records import Page
from adapter_registry.store.keeping import VerdictRow
from adapter_registry.store.models import BaseRow, VersionRow
from lorry.errors import InvalidPageToken
from tests.suites.catalog_values import a_base, adapter, digest, everything, publish, ref

CAT = adapter("cat")
Q, BOTH = ("layers.0.q",), ("layers.0.q", "layers.0.mlp.up", "layers.1.mlp.up")
TINY, BIG = a_base(1, "tiny", known_as=("Org/Tiny",)), a_base(2, "big")

# What each filter finds among the adapters of the kennel. Cat and dog were judged, `kitten` was not;
# `ghost` has nothing but a yanked version.
ADAPTERS = {
    "module=q": ["cat", "dog", "kitten"],
    "module=up": ["dog"],
    "module!=up": ["cat", "kitten"],
    "module=layers.0.q": [],
    "parent!=PARENT": ["cat", "dog"],
    "parent=PARENT": ["kitten"],
    "alias=prod": ["cat", "dog"],
    "alias!=prod": ["ghost", "kitten"],
    "alias=canary AND alias=prod": ["cat"],
    "fits=tiny": ["cat", "dog"],
    "fits=Org/Tiny": ["cat", "dog"],
    f"fits={TINY.facts.base_id}": ["cat", "dog"],
    "fits!=tiny": [],
    "fits=big": [],
    "fits!=big": ["cat", "dog"],
    "fits=unknown": [],
    "fits!=unknown": [],
    "module=up AND alias=prod AND fits=tiny": ["dog"],
}

# Of the days on which the versions of `history` were made: 1st, 2nd, 2nd at noon, 3rd of January 2026.
CREATED = {
    "created=2026-01-02": [3, 2],
    "created!=2026-01-02": [4, 1],
    "created<2026-01-02": [1],
    "created<=2026-01-02": [3, 2, 1],
    "created>2026-01-02": [4],
    "created>=2026-01-02": [4, 3, 2],
    "created=2026-01-02T12:00:00Z": [3],
    "created=2026-01-02T14:00:00+02:00": [3],
    "created!=2026-01-02T12:00:00Z": [4, 2, 1],
    "created<2026-01-02T12:00:00Z": [2, 1],
    "created<=2026-01-02T12:00:00Z": [3, 2, 1],
    "created>2026-01-02T12:00:00Z": [4],
    "created>=2026-01-02T12:00:00.000001Z": [4],
    "created>2026-01-01 AND created<2026-01-03": [3, 2],
    "created>0001-01-01": [4, 3, 2, 1],
    "created>9999-12-30": [],
}


def names(catalog: Catalog, text: str) -> list[str]:
    return [a.name for a in catalog.list_adapters(None, parse_filter(text), Page()).items]


def numbers(catalog: Catalog, text: str) -> list[int]:
    terms = parse_filter(text, VERSION_FIELDS)
    return [v.number for v in everything(lambda page: catalog.list_versions(CAT, page, terms))]


class FilterRules:
    @pytest.fixture
    def kennel(self, catalog: Catalog) -> Catalog:
        catalog.add_base(TINY)
        catalog.add_base(BIG)
        publish(catalog, "cat", 1, alias="prod")
        publish(catalog, "dog", 2, alias="prod", modules=BOTH)
        judge(catalog, {"tiny": True, "big": False})
        catalog.set_alias(ref("cat@1"), "canary", None)
        publish(catalog, "kitten", 3, parents=(digest_of_cat(catalog),))
        publish(catalog, "ghost", 4)
        catalog.yank_version(ref("ghost@1"), "never seen")
        return catalog

    def test_modules_parents_aliases_and_verdicts_choose_adapters(self, kennel: Catalog) -> None:
        parent = digest_of_cat(kennel)
        assert {text: names(kennel, text.replace("PARENT", parent)) for text in ADAPTERS} == ADAPTERS

    def test_a_verdict_from_before_a_base_changed_says_nothing(self, kennel: Catalog) -> None:
        with kennel._database.write() as session:
            session.execute(update(VerdictRow).values(revision=VerdictRow.revision - 1))
        assert names(kennel, "fits=tiny") == names(kennel, "fits!=big") == []

    def test_an_adapter_is_chosen_by_its_newest_version_and_a_version_by_itself(self, catalog: Catalog) -> None:
        first = publish(catalog, "cat", 1, rank=4, modules=Q, alias="prod")
        publish(catalog, "cat", 2, rank=8, modules=BOTH, parents=(first,), variant="dora")
        assert (names(catalog, "rank=4"), names(catalog, "module=up")) == ([], ["cat"])
        told = {
            "rank<=4": [1],
            "rank>4 AND variant=dora": [2],
            "module=up": [2],
            "module!=up": [1],
            f"parent={first}": [2],
            f"parent!={first}": [1],
            f"parent={digest('nobody')}": [],
            "alias=prod": [1],
            "alias!=prod": [2],
            "base=unknown": [],
            "size>=0": [2, 1],
        }
        assert {text: numbers(catalog, text) for text in told} == told

    def test_versions_are_chosen_by_the_day_and_the_moment(self, catalog: Catalog) -> None:
        for seed in range(4):
            publish(catalog, "cat", seed)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        moments = [start, start + timedelta(days=1), start + timedelta(days=1, hours=12), start + timedelta(days=2)]
        with catalog._database.write() as session:
            for number, moment in enumerate(moments, 1):
                session.execute(update(VersionRow).where(VersionRow.number == number).values(created=moment))
        assert {text: numbers(catalog, text) for text in CREATED} == CREATED
        assert names(catalog, "created=2026-01-03") == ["cat"]

    def test_a_token_of_versions_belongs_to_its_filter(self, catalog: Catalog) -> None:
        for seed in range(3):
            publish(catalog, "cat", seed)
        terms = parse_filter("rank=4", VERSION_FIELDS)
        token = catalog.list_versions(CAT, Page(1), terms).next_token
        assert [v.number for v in catalog.list_versions(CAT, Page(9, token), terms).items] == [2, 1]
        for others in ((), parse_filter("rank<5", VERSION_FIELDS)):
            with pytest.raises(InvalidPageToken):
                catalog.list_versions(CAT, Page(1, token), others)

    def test_a_page_of_large_manifests_is_shorter_and_the_next_goes_on(self, catalog: Catalog) -> None:
        # 2,048 modules of 500 characters: a megabyte each, so that four fill half of a message.
        wide = tuple(f"{'m' * 490}.{n:05}" for n in range(2_048))
        for seed in range(6):
            publish(catalog, "cat", seed, modules=wide)
        first = catalog.list_versions(CAT, Page(6))
        assert 1 <= len(first.items) < 6
        rest = everything(lambda page: catalog.list_versions(CAT, Page(6, page.token or first.next_token)), size=6)
        assert [v.number for v in (*first.items, *rest)] == [6, 5, 4, 3, 2, 1]


def digest_of_cat(catalog: Catalog) -> str:
    return catalog.get_version(ref("cat@1")).digest


def judge(catalog: Catalog, verdicts: dict[str, bool]) -> None:
    """Store a verdict on each version that is there, by the name of the base."""
    with catalog._database.write() as session:
        bases = {row.name: row for row in session.scalars(select(BaseRow))}
        session.add_all(
            VerdictRow(
                version=version, base=bases[name].id, compatible=fits, findings=b"", revision=bases[name].revision
            )
            for version in session.scalars(select(VersionRow.id))
            for name, fits in verdicts.items()
        )
