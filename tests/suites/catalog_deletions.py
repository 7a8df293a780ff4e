"""What a catalogue promises about deletion: what refuses it, what it takes along, what outlives it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import Deletion, Page
from lorry.errors import AdapterNotFound, AliasNotFound, ParentNotFound, VersionInUse, VersionNotFound
from tests.suites.catalog_values import a_version, adapter, publish, ref

CAT = adapter("cat")


class DeletionRules:
    def test_a_deleted_version_is_gone_and_the_others_stay(self, catalog: Catalog) -> None:
        first, second = publish(catalog, seed=1), publish(catalog, seed=2)
        assert catalog.delete_version(ref("cat@2"), force=False) == Deletion((second,), (), ())
        for text in ("cat@2", f"cat@{second}"):
            with pytest.raises(VersionNotFound):
                catalog.get_version(ref(text))
        assert catalog.resolve(ref("cat")).digest == first
        assert catalog.get_adapter(CAT).version_count == 1

    def test_a_number_is_never_given_again(self, catalog: Catalog) -> None:
        publish(catalog, seed=1)
        again = publish(catalog, seed=2)
        catalog.delete_version(ref("cat@2"), force=False)
        assert catalog.create_version(a_version(seed=2))[0].number == 3
        assert catalog.get_version(ref("cat@3")).digest == again

    def test_an_adapter_without_versions_stays(self, catalog: Catalog) -> None:
        publish(catalog)
        catalog.delete_version(ref("cat@1"), force=False)
        left = catalog.get_adapter(CAT)
        assert (left.latest, left.version_count) == (None, 0)
        assert catalog.list_versions(CAT, Page()).items == ()
        with pytest.raises(VersionNotFound):
            catalog.resolve(ref("cat"))

    def test_a_version_that_an_alias_names_is_deleted_by_force_alone(self, catalog: Catalog) -> None:
        only = publish(catalog, alias="prod")
        catalog.set_alias(ref("cat@1"), "best", None)
        with pytest.raises(VersionInUse, match="alias best, alias prod"):
            catalog.delete_version(ref("cat@1"), force=False)
        assert catalog.resolve(ref("cat:prod")).digest == only
        assert catalog.delete_version(ref("cat@1"), force=True) == Deletion((only,), ("best", "prod"), ())
        with pytest.raises(AliasNotFound):
            catalog.resolve(ref("cat:prod"))
        moves = catalog.alias_history(CAT, "prod", Page()).items
        assert [(m.revision, m.digest) for m in moves] == [(2, None), (1, only)]

    @pytest.mark.parametrize("kind", ["parents", "sources"])
    def test_a_parent_is_deleted_by_force_alone(self, catalog: Catalog, kind: str) -> None:
        parent = publish(catalog, "cat", 1)
        child = publish(catalog, "kitten", 2, **{kind: (parent,)})
        with pytest.raises(VersionInUse, match=child):
            catalog.delete_version(ref("cat@1"), force=False)
        assert catalog.delete_version(ref("cat@1"), force=True) == Deletion((parent,), (), (child,))
        assert catalog.resolve(ref("kitten")).digest == child
        with pytest.raises(ParentNotFound):
            publish(catalog, "other", 3, **{kind: (parent,)})

    def test_a_child_holds_nobody_up_once_it_is_gone(self, catalog: Catalog) -> None:
        parent = publish(catalog, "cat", 1)
        publish(catalog, "kitten", 2, parents=(parent,))
        catalog.delete_version(ref("kitten@1"), force=False)
        assert catalog.delete_version(ref("cat@1"), force=False).orphans == ()

    def test_a_parent_that_another_adapter_holds_too_is_not_missed(self, catalog: Catalog) -> None:
        parent = publish(catalog, "cat", 1)
        publish(catalog, "copy-of-cat", 1)
        child = publish(catalog, "kitten", 2, parents=(parent,))
        assert catalog.delete_version(ref("cat@1"), force=False).orphans == ()
        with pytest.raises(VersionInUse, match=child):
            catalog.delete_version(ref("copy-of-cat@1"), force=False)

    def test_an_orphan_has_its_parent_again_when_the_same_version_is_published(self, catalog: Catalog) -> None:
        parent = publish(catalog, "cat", 1)
        publish(catalog, "kitten", 2, parents=(parent,))
        catalog.delete_version(ref("cat@1"), force=True)
        publish(catalog, "dog", 1)
        with pytest.raises(VersionInUse):
            catalog.delete_version(ref("dog@1"), force=False)

    def test_a_refusal_names_some_of_many_users(self, catalog: Catalog) -> None:
        publish(catalog)
        for number in range(30):
            catalog.set_alias(ref("cat@1"), f"alias-{number:02}", None)
        with pytest.raises(VersionInUse, match="alias alias-19 and 10 more"):
            catalog.delete_version(ref("cat@1"), force=False)

    def test_an_adapter_goes_with_its_versions_and_aliases(self, catalog: Catalog) -> None:
        first = publish(catalog, "cat", 1, alias="prod")
        second = publish(catalog, "cat", 2, parents=(first,))  # a child inside of the adapter holds nobody up
        assert catalog.delete_adapter(CAT, force=False) == Deletion((first, second), ("prod",), ())
        for call in (
            lambda: catalog.get_adapter(CAT),
            lambda: catalog.list_versions(CAT, Page()),
            lambda: catalog.list_aliases(CAT, Page()),
            lambda: catalog.alias_history(CAT, "prod", Page()),
            lambda: catalog.resolve(ref("cat:prod")),
            lambda: catalog.resolve(ref(f"cat@{first}")),
            lambda: catalog.update_adapter(CAT, description="x", labels=None, revision=None),
            lambda: catalog.delete_adapter(CAT, force=False),
        ):
            with pytest.raises(AdapterNotFound):
                call()
        assert catalog.list_adapters(None, (), Page()).items == ()

    def test_an_adapter_with_children_elsewhere_goes_by_force_alone(self, catalog: Catalog) -> None:
        parent = publish(catalog, "cat", 1)
        child = publish(catalog, "kitten", 2, parents=(parent,))
        with pytest.raises(VersionInUse, match=child):
            catalog.delete_adapter(CAT, force=False)
        assert catalog.delete_adapter(CAT, force=True) == Deletion((parent,), (), (child,))

    def test_a_name_that_comes_back_is_new_but_for_its_numbers(self, catalog: Catalog) -> None:
        catalog.create_version(replace(a_version(), description="old", labels={"old": "1"}, alias="prod"))
        old = catalog.get_adapter(CAT)
        catalog.delete_adapter(CAT, force=False)
        version, created = catalog.create_version(replace(a_version(), description="new", labels={"new": "1"}))
        assert (version.number, version.aliases, created) == (2, (), True)
        again = catalog.get_adapter(CAT)
        assert (again.description, again.labels, again.version_count) == ("new", {"new": "1"}, 1)
        assert again.revision > old.revision
        assert catalog.set_alias(ref("cat@2"), "prod", 0).revision == 3

    def test_other_adapters_are_left_alone(self, catalog: Catalog) -> None:
        publish(catalog, "cat", 1, alias="prod")
        publish(catalog, "team/cat", 1, alias="prod")
        before = catalog.get_adapter(adapter("team/cat"))
        catalog.delete_adapter(CAT, force=True)
        assert catalog.get_adapter(adapter("team/cat")) == before
