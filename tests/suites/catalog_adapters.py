"""What a catalogue promises about adapters: facts of the newest version, filters, pages, updates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.filters import parse_filter
from adapter_registry.domain.records import Page
from lorry.errors import AdapterNotFound, InvalidPageToken, RevisionConflict
from lorry.format.digest import digest_of
from tests.suites.catalog_values import a_base, a_version, adapter, everything, publish, ref

CAT = adapter("cat")

# What each filter finds in the zoo below.
FILTERS = {
    "": ["ape", "cat", "cat-big", "yak", "team/cat"],
    "name=cat": ["cat", "team/cat"],
    "name!=cat": ["ape", "cat-big", "yak"],
    "name=cat*": ["cat", "cat-big", "team/cat"],
    "name!=cat*": ["ape", "yak"],
    "name=*": ["ape", "cat", "cat-big", "yak", "team/cat"],
    "name=ca%": [],
    "name=c_t*": [],
    "name=CAT": [],
    "variant=lora": ["ape", "team/cat"],
    "variant!=lora": ["cat", "cat-big"],
    "rank=8": ["cat", "team/cat"],
    "rank!=8": ["ape", "cat-big"],
    "rank<8": ["ape"],
    "rank<=8": ["ape", "cat", "team/cat"],
    "rank>8": ["cat-big"],
    "rank>=008": ["cat", "cat-big", "team/cat"],
    "size>999999999999999999": [],
    "size=10000000000": ["cat-big"],
    "size<20": ["ape", "team/cat"],
    "base=tiny": ["ape", "cat"],
    "base=Org/Tiny": ["ape", "cat"],
    f"base={a_base(2).facts.base_id}": ["cat-big"],
    "base!=tiny": ["cat-big", "team/cat"],
    "base=unknown": [],
    'labels.tier="Gold Star"': ["cat", "cat-big", "yak", "team/cat"],
    "labels.home!=cat": ["ape", "cat-big", "yak", "team/cat"],
    "labels.Home=cat": [],
    "labels.tier='": [],
    "name=cat* AND rank>=8 AND labels.home!=cat": ["cat-big", "team/cat"],
}


def found(catalog: Catalog, text: str = "", namespace: str | None = None) -> list[str]:
    terms, namespaces = parse_filter(text), None if namespace is None else frozenset({namespace})
    return [str(adapter(f"{a.namespace}/{a.name}")) for a in catalog.list_adapters(namespaces, terms, Page()).items]


class AdapterRules:
    @pytest.fixture
    def zoo(self, catalog: Catalog) -> Catalog:
        """Five adapters, one of them with nothing but a yanked version."""
        catalog.add_base(a_base(1, "tiny", known_as=("Org/Tiny",)))
        catalog.add_base(a_base(2, "big"))
        kinds = {
            "ape": {"rank": 4, "variant": "lora", "size": 10, "base": 1},
            "cat": {"rank": 8, "variant": "rslora", "size": 20, "base": 1},
            "cat-big": {"rank": 16, "variant": "dora", "size": 10_000_000_000, "base": 2},
            "team/cat": {"rank": 8, "variant": "lora", "size": 0, "base": 3},
            "yak": {"rank": 4, "variant": "lora", "size": 10, "base": 1},
        }
        for seed, (name, facts) in enumerate(kinds.items()):
            catalog.create_version(replace(a_version(name, seed, **facts), labels={"home": name, "tier": "Gold Star"}))
        catalog.yank_version(ref("yak@1"), "bites")
        catalog.update_adapter(adapter("ape"), description=None, labels={}, revision=None)
        return catalog

    def test_an_adapter_tells_its_newest_version_that_is_not_yanked(self, catalog: Catalog) -> None:
        first = publish(catalog, seed=1, alias="prod")
        second = publish(catalog, seed=2, alias="test")
        read = catalog.get_adapter(CAT)
        assert read.latest == catalog.get_version(ref("cat@2"))
        assert (read.version_count, read.aliases) == (2, {"prod": first, "test": second})
        catalog.yank_version(ref("cat@2"), "why")
        assert catalog.get_adapter(CAT).latest == catalog.get_version(ref("cat@1"))
        catalog.yank_version(ref("cat@1"), "why")
        assert catalog.get_adapter(CAT).latest is None
        assert catalog.get_adapter(CAT).version_count == 2

    def test_adapters_are_listed_by_namespace_and_name(self, catalog: Catalog) -> None:
        names = ["b", "a-1", "a", "a.1", "a0", "team/a", "team-2/z", "team.1/b"]
        for seed, name in enumerate(names):
            publish(catalog, name, seed, alias="prod")
        listed = everything(lambda page: catalog.list_adapters(None, (), page), size=3)
        order = sorted(map(adapter, names))
        assert [adapter(f"{a.namespace}/{a.name}") for a in listed] == order
        assert listed == [catalog.get_adapter(name) for name in order]

    def test_a_namespace_is_listed_alone(self, catalog: Catalog) -> None:
        for name in ("a", "team/b", "team/c", "team-2/d"):
            publish(catalog, name)
        assert found(catalog, namespace="team") == ["team/b", "team/c"]
        assert found(catalog, namespace="nobody") == []

    def test_several_namespaces_are_listed_together_and_in_order(self, catalog: Catalog) -> None:
        for name in ("a", "team/c", "team/b", "team-2/d", "other/e"):
            publish(catalog, name)
        some = frozenset({"team", "default", "team-2"})
        listed = everything(lambda page: catalog.list_adapters(some, (), page), size=1)
        assert [(a.namespace, a.name) for a in listed] == [
            ("default", "a"),
            ("team", "b"),
            ("team", "c"),
            ("team-2", "d"),
        ]
        assert catalog.list_adapters(frozenset(), (), Page()).items == ()

    def test_a_filter_lists_those_of_whom_every_term_holds(self, zoo: Catalog) -> None:
        assert {text: found(zoo, text) for text in FILTERS} == FILTERS

    def test_a_filter_sees_what_the_newest_version_became(self, zoo: Catalog) -> None:
        publish(zoo, "ape", 77, rank=64, base=2)
        assert found(zoo, "rank=4") == []
        assert found(zoo, "rank=64 AND base=big", "default") == ["ape"]
        zoo.yank_version(ref("ape@2"), "too big")
        assert found(zoo, "rank=4") == ["ape"]

    def test_a_filtered_list_is_paged_as_any(self, zoo: Catalog) -> None:
        terms = parse_filter("name!=ape")
        listed = everything(lambda page: zoo.list_adapters(None, terms, page), size=1)
        assert [a.name for a in listed] == ["cat", "cat-big", "yak", "cat"]

    def test_pages_stay_right_while_adapters_come_and_go(self, zoo: Catalog) -> None:
        first = zoo.list_adapters(None, (), Page(2))
        zoo.delete_adapter(CAT, force=False)  # the one that the token names
        publish(zoo, "bee", 50)  # before it: belongs to the page that was read
        publish(zoo, "dog", 51)  # behind it
        rest = zoo.list_adapters(None, (), Page(9, first.next_token))
        assert [a.name for a in (*first.items, *rest.items)] == ["ape", "cat", "cat-big", "dog", "yak", "cat"]

    def test_a_token_belongs_to_its_filter_and_namespace(self, zoo: Catalog) -> None:
        token = zoo.list_adapters(None, (), Page(1)).next_token
        for namespaces, text in ((frozenset({"default"}), ""), (None, "name=cat"), (None, "created>2020-01-01")):
            with pytest.raises(InvalidPageToken):
                zoo.list_adapters(namespaces, parse_filter(text), Page(1, token))

    def test_an_update_writes_what_it_is_given(self, catalog: Catalog) -> None:
        catalog.create_version(replace(a_version(), description="purrs", labels={"a": "1", "b": "2"}))
        relabelled = catalog.update_adapter(CAT, description=None, labels={"b": "3", "c": ""}, revision=1)
        assert (relabelled.description, relabelled.labels, relabelled.revision) == ("purrs", {"b": "3", "c": ""}, 2)
        described = catalog.update_adapter(CAT, description="", labels=None, revision=None)
        assert (described.description, described.labels, described.revision) == ("", {"b": "3", "c": ""}, 3)
        assert catalog.get_adapter(CAT) == described

    def test_an_update_of_nothing_changes_nothing(self, catalog: Catalog) -> None:
        publish(catalog)
        before = catalog.get_adapter(CAT)
        assert catalog.update_adapter(CAT, description=None, labels=None, revision=1) == before

    def test_an_update_from_another_revision_is_refused(self, catalog: Catalog) -> None:
        publish(catalog)
        with pytest.raises(RevisionConflict) as refused:
            catalog.update_adapter(CAT, description="new", labels=None, revision=2)
        assert refused.value.metadata == {"revision": "1"}
        assert catalog.get_adapter(CAT).description == ""

    def test_an_adapter_that_is_not_there_is_neither_read_nor_updated(self, catalog: Catalog) -> None:
        publish(catalog, "team/cat")
        with pytest.raises(AdapterNotFound):
            catalog.get_adapter(CAT)
        with pytest.raises(AdapterNotFound):
            catalog.update_adapter(CAT, description="new", labels=None, revision=None)

    def test_a_version_record_of_a_listing_is_whole(self, catalog: Catalog) -> None:
        publish(catalog)
        latest = catalog.list_adapters(None, (), Page()).items[0].latest
        assert latest is not None
        assert digest_of(latest.manifest.canonical_json()) == latest.digest
