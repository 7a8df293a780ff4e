"""What a catalogue promises about versions: numbers, references, yanking."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import Page
from lorry.errors import (
    AdapterNotFound,
    AliasNotFound,
    InvalidAdapter,
    InvalidPageToken,
    ParentNotFound,
    VersionNotFound,
    VersionYanked,
)
from tests.suites.catalog_values import a_version, adapter, digest, everything, publish, ref


class VersionRules:
    def test_a_version_is_read_as_it_was_published(self, catalog: Catalog) -> None:
        parent = publish(catalog, "parent")
        new = replace(a_version("team/cat", 2, alias="prod", sources=(parent,)), warnings=("matched by name",))
        version, created = catalog.create_version(new)
        assert created
        assert (version.namespace, version.name, version.number) == ("team", "cat", 1)
        assert (version.manifest, version.digest) == (new.manifest, new.manifest.digest)
        assert (version.aliases, version.warnings, version.yank_reason) == (("prod",), ("matched by name",), None)
        assert version.created.tzinfo is UTC
        assert catalog.get_version(ref("team/cat@1")) == version

    def test_the_first_version_makes_the_adapter(self, catalog: Catalog) -> None:
        with pytest.raises(AdapterNotFound):
            catalog.get_adapter(adapter("cat"))
        catalog.create_version(replace(a_version(), description="purrs", labels={"team": "pets"}))
        made = catalog.get_adapter(adapter("cat"))
        assert (made.description, made.labels, made.revision, made.version_count) == ("purrs", {"team": "pets"}, 1, 1)

    def test_description_and_labels_of_a_later_version_are_ignored(self, catalog: Catalog) -> None:
        publish(catalog, seed=1)
        catalog.create_version(replace(a_version(seed=2), description="barks", labels={"team": "dogs"}))
        assert (catalog.get_adapter(adapter("cat")).description, catalog.get_adapter(adapter("cat")).labels) == ("", {})

    def test_numbers_rise_by_one_under_each_adapter(self, catalog: Catalog) -> None:
        numbers = [catalog.create_version(a_version("cat", seed))[0].number for seed in range(3)]
        assert numbers == [1, 2, 3]
        assert catalog.create_version(a_version("dog"))[0].number == 1

    def test_the_same_manifest_again_is_the_same_version(self, catalog: Catalog) -> None:
        first, _ = catalog.create_version(a_version())
        publish(catalog, seed=2)
        assert catalog.create_version(a_version()) == (first, False)
        assert catalog.create_version(a_version(seed=3))[0].number == 3

    def test_the_same_manifest_under_two_adapters_is_two_versions(self, catalog: Catalog) -> None:
        assert publish(catalog, "cat") == publish(catalog, "dog")
        assert catalog.get_version(ref("dog@1")).name == "dog"
        catalog.yank_version(ref("cat@1"), "fleas")
        assert catalog.resolve(ref("dog@1")).yank_reason is None

    def test_an_alias_given_along_moves_even_when_the_version_exists(self, catalog: Catalog) -> None:
        first = publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2, alias="prod")
        assert catalog.get_version(ref("cat:prod")).number == 2
        version, created = catalog.create_version(a_version(seed=1, alias="prod"))
        assert (version.digest, version.aliases, created) == (first, ("prod",), False)

    def test_parents_may_belong_to_any_adapter(self, catalog: Catalog) -> None:
        mother, father = publish(catalog, "a", 1), publish(catalog, "team/b", 2)
        child = publish(catalog, "kitten", 3, parents=(mother, father), sources=(father,))
        assert catalog.get_version(ref("kitten")).digest == child

    @pytest.mark.parametrize("kind", ["parents", "sources"])
    def test_an_unknown_parent_is_refused_and_nothing_is_written(self, catalog: Catalog, kind: str) -> None:
        before = catalog.last_event()
        with pytest.raises(ParentNotFound, match=digest("nobody")):
            catalog.create_version(a_version(**{kind: (digest("nobody"),)}))
        with pytest.raises(AdapterNotFound):
            catalog.get_adapter(adapter("cat"))
        assert catalog.last_event() == before

    def test_a_manifest_that_could_not_be_read_again_is_refused(self, catalog: Catalog) -> None:
        new = a_version()
        with pytest.raises(InvalidAdapter):
            catalog.create_version(replace(new, manifest=replace(new.manifest, alpha=8)))
        with pytest.raises(AdapterNotFound):
            catalog.get_adapter(adapter("cat"))

    def test_a_reference_names_by_number_alias_digest_or_the_newest(self, catalog: Catalog) -> None:
        first = publish(catalog, seed=1, alias="prod")
        second = publish(catalog, seed=2)
        named = {"cat@1": first, "cat:prod": first, f"cat@{first}": first, "cat": second, "default/cat@2": second}
        for text, expected in named.items():
            assert catalog.get_version(ref(text)) == catalog.resolve(ref(text))
            assert catalog.resolve(ref(text)).digest == expected

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("dog", AdapterNotFound),
            ("dog@1", AdapterNotFound),
            ("dog:prod", AdapterNotFound),
            ("team/cat@1", AdapterNotFound),
            ("cat@2", VersionNotFound),
            ("cat@999999999999999999", VersionNotFound),
            (f"cat@{digest('nothing')}", VersionNotFound),
            ("cat:prod", AliasNotFound),
        ],
    )
    def test_what_a_reference_does_not_find_is_told_by_kind(self, catalog: Catalog, text: str, error: type) -> None:
        publish(catalog)
        publish(catalog, "ape", alias="prod")  # another adapter's alias of the same name is no help
        calls = (catalog.get_version, catalog.resolve, lambda r: catalog.delete_version(r, force=True))
        for call in (*calls, lambda r: catalog.yank_version(r, "why"), lambda r: catalog.set_alias(r, "new", None)):
            with pytest.raises(error):
                call(ref(text))

    def test_a_yanked_version_is_found_by_digest_alone(self, catalog: Catalog) -> None:
        first = publish(catalog, seed=1, alias="prod")
        yanked = catalog.yank_version(ref("cat@1"), "wrong data")
        assert yanked.yank_reason == "wrong data"
        for text in ("cat@1", "cat:prod"):
            assert catalog.get_version(ref(text)) == yanked
            with pytest.raises(VersionYanked, match="wrong data") as refused:
                catalog.resolve(ref(text))
            assert refused.value.metadata == {"yank_reason": "wrong data"}
        assert catalog.resolve(ref(f"cat@{first}")) == yanked

    def test_the_newest_version_is_the_newest_that_is_not_yanked(self, catalog: Catalog) -> None:
        for seed in (1, 2, 3):
            publish(catalog, seed=seed)
        catalog.yank_version(ref("cat@2"), "old")
        assert catalog.resolve(ref("cat")).number == 3
        catalog.yank_version(ref("cat"), "broken")
        assert catalog.resolve(ref("cat")).number == 1
        catalog.yank_version(ref("cat"), "the last")
        for call in (catalog.resolve, catalog.get_version):
            with pytest.raises(VersionNotFound, match="not yanked"):
                call(ref("cat"))
        publish(catalog, seed=4)
        assert catalog.resolve(ref("cat")).number == 4

    def test_the_first_reason_of_a_yank_stays(self, catalog: Catalog) -> None:
        publish(catalog)
        first = catalog.yank_version(ref("cat@1"), "wrong data")
        assert catalog.yank_version(ref("cat@1"), "another reason") == first

    def test_a_yanked_version_stays_yanked_when_it_is_published_again(self, catalog: Catalog) -> None:
        publish(catalog)
        yanked = catalog.yank_version(ref("cat@1"), "wrong data")
        assert catalog.create_version(a_version()) == (yanked, False)
        with pytest.raises(VersionYanked):
            catalog.create_version(a_version(alias="prod"))

    def test_versions_are_listed_newest_first_yanked_ones_too(self, catalog: Catalog) -> None:
        for seed in range(5):
            publish(catalog, seed=seed, alias=f"v{seed}")
        catalog.yank_version(ref("cat@3"), "why")
        listed = everything(lambda page: catalog.list_versions(adapter("cat"), page), size=2)
        assert listed == [catalog.get_version(ref(f"cat@{number}")) for number in (5, 4, 3, 2, 1)]

    def test_pages_stay_right_while_versions_come_and_go(self, catalog: Catalog) -> None:
        for seed in range(6):
            publish(catalog, seed=seed)
        first = catalog.list_versions(adapter("cat"), Page(2))
        catalog.delete_version(ref("cat@5"), force=False)
        catalog.delete_version(ref("cat@4"), force=False)
        publish(catalog, seed=7)
        rest = catalog.list_versions(adapter("cat"), Page(9, first.next_token))
        assert [v.number for v in (*first.items, *rest.items)] == [6, 5, 3, 2, 1]

    def test_a_token_belongs_to_its_adapter(self, catalog: Catalog) -> None:
        for seed in (1, 2):
            publish(catalog, "cat", seed)
            publish(catalog, "dog", seed)
        token = catalog.list_versions(adapter("cat"), Page(1)).next_token
        with pytest.raises(InvalidPageToken):
            catalog.list_versions(adapter("dog"), Page(1, token))

    def test_versions_of_no_adapter_are_not_listed(self, catalog: Catalog) -> None:
        with pytest.raises(AdapterNotFound):
            catalog.list_versions(adapter("cat"), Page())
