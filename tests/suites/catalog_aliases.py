"""What a catalogue promises about aliases: compare-and-swap, and a history that nothing erases."""

from __future__ import annotations

import pytest

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import AliasRecord, Page
from adapter_registry.store import aliases
from lorry.errors import (
    AdapterNotFound,
    AliasNotFound,
    InvalidPageToken,
    NoEarlierVersion,
    QuotaExceeded,
    RevisionConflict,
    VersionNotFound,
    VersionYanked,
)
from tests.suites.catalog_values import adapter, everything, publish, ref

CAT = adapter("cat")


def history(catalog: Catalog, alias: str = "prod") -> list[tuple[int, str | None, int]]:
    moves = everything(lambda page: catalog.alias_history(CAT, alias, page), size=2)
    return [(move.revision, move.digest, move.number) for move in moves]


class AliasRules:
    def test_an_alias_names_a_version_until_it_moves(self, catalog: Catalog) -> None:
        first, second = publish(catalog, seed=1), publish(catalog, seed=2)
        made = catalog.set_alias(ref("cat@1"), "prod", None)
        assert (made.alias, made.digest, made.number, made.revision) == ("prod", first, 1, 1)
        assert catalog.resolve(ref("cat:prod")).digest == first
        moved = catalog.set_alias(ref(f"cat@{second}"), "prod", None)
        assert (moved.digest, moved.number, moved.revision) == (second, 2, 2)
        assert catalog.resolve(ref("cat:prod")).digest == second

    def test_an_alias_may_follow_another(self, catalog: Catalog) -> None:
        publish(catalog, seed=1, alias="staging")
        catalog.set_alias(ref("cat:staging"), "prod", None)
        assert catalog.get_version(ref("cat@1")).aliases == ("prod", "staging")

    def test_an_alias_that_points_there_already_does_not_move(self, catalog: Catalog) -> None:
        publish(catalog)
        made = catalog.set_alias(ref("cat@1"), "prod", None)
        assert catalog.set_alias(ref("cat@1"), "prod", 1) == made
        assert len(history(catalog)) == 1

    @pytest.mark.parametrize(("expected", "stored"), [(0, "1"), (2, "1"), (-1, "1"), (1 << 62, "1")])
    def test_a_move_from_another_revision_is_refused(self, catalog: Catalog, expected: int, stored: str) -> None:
        publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2)
        with pytest.raises(RevisionConflict) as refused:
            catalog.set_alias(ref("cat@2"), "prod", expected)
        assert refused.value.metadata == {"revision": stored}
        assert catalog.resolve(ref("cat:prod")).number == 1

    def test_revision_0_means_that_it_must_not_exist(self, catalog: Catalog) -> None:
        publish(catalog)
        with pytest.raises(RevisionConflict) as refused:
            catalog.set_alias(ref("cat@1"), "prod", 1)
        assert refused.value.metadata == {"revision": "0"}
        assert catalog.set_alias(ref("cat@1"), "prod", 0).revision == 1

    def test_a_yanked_version_is_given_no_alias(self, catalog: Catalog) -> None:
        first = publish(catalog)
        catalog.yank_version(ref("cat@1"), "wrong data")
        for text in ("cat@1", f"cat@{first}"):
            with pytest.raises(VersionYanked):
                catalog.set_alias(ref(text), "prod", None)
        assert catalog.list_aliases(CAT, Page()).items == ()

    def test_a_deleted_alias_names_nothing(self, catalog: Catalog) -> None:
        publish(catalog, alias="prod")
        catalog.delete_alias(CAT, "prod", 1)
        with pytest.raises(AliasNotFound):
            catalog.resolve(ref("cat:prod"))
        with pytest.raises(AliasNotFound):
            catalog.delete_alias(CAT, "prod", None)
        assert catalog.get_version(ref("cat@1")).aliases == ()

    def test_a_deletion_from_another_revision_is_refused(self, catalog: Catalog) -> None:
        publish(catalog, alias="prod")
        with pytest.raises(RevisionConflict) as refused:
            catalog.delete_alias(CAT, "prod", 2)
        assert refused.value.metadata == {"revision": "1"}
        assert catalog.resolve(ref("cat:prod")).number == 1

    def test_an_alias_of_a_yanked_version_can_be_moved_and_deleted(self, catalog: Catalog) -> None:
        publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2)
        catalog.yank_version(ref("cat@1"), "wrong data")
        assert catalog.set_alias(ref("cat@2"), "prod", 1).number == 2
        catalog.yank_version(ref("cat@2"), "worse data")
        catalog.delete_alias(CAT, "prod", None)
        assert catalog.list_aliases(CAT, Page()).items == ()

    def test_history_tells_every_move_newest_first_and_outlives_deletion(self, catalog: Catalog) -> None:
        first, second = publish(catalog, seed=1, alias="prod"), publish(catalog, seed=2, alias="prod")
        catalog.delete_alias(CAT, "prod", None)
        told = [(3, None, 0), (2, second, 2), (1, first, 1)]
        assert history(catalog) == told
        again = catalog.set_alias(ref("cat@1"), "prod", 0)
        assert again.revision == 4
        assert history(catalog) == [(4, first, 1), *told]
        assert catalog.alias_history(CAT, "prod", Page()).items[0] == again

    def test_the_revision_of_before_a_deletion_does_not_pass_after_it(self, catalog: Catalog) -> None:
        publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2)
        catalog.delete_alias(CAT, "prod", None)
        catalog.set_alias(ref("cat@1"), "prod", None)
        with pytest.raises(RevisionConflict):
            catalog.set_alias(ref("cat@2"), "prod", 1)

    def test_aliases_are_listed_by_name(self, catalog: Catalog) -> None:
        publish(catalog)
        names = ["b", "a-1", "a", "a.1", "0"]
        made = {name: catalog.set_alias(ref("cat@1"), name, None) for name in names}
        assert everything(lambda page: catalog.list_aliases(CAT, page)) == [made[name] for name in sorted(names)]
        assert all(isinstance(record, AliasRecord) for record in made.values())

    def test_two_adapters_have_aliases_of_their_own(self, catalog: Catalog) -> None:
        publish(catalog, "cat", 1, alias="prod")
        publish(catalog, "dog", 2)
        assert catalog.set_alias(ref("dog@1"), "prod", 0).revision == 1
        assert [move[0] for move in history(catalog)] == [1]

    def test_what_is_not_there_is_told_by_kind(self, catalog: Catalog) -> None:
        for call in (
            lambda: catalog.list_aliases(CAT, Page()),
            lambda: catalog.alias_history(CAT, "prod", Page()),
            lambda: catalog.delete_alias(CAT, "prod", None),
        ):
            with pytest.raises(AdapterNotFound):
                call()
        publish(catalog)
        with pytest.raises(AliasNotFound):
            catalog.alias_history(CAT, "prod", Page())

    def test_a_token_belongs_to_its_list(self, catalog: Catalog) -> None:
        for seed in (1, 2):
            publish(catalog, seed=seed, alias="prod")
        catalog.set_alias(ref("cat@1"), "test", None)
        moves = catalog.alias_history(CAT, "prod", Page(1)).next_token
        names = catalog.list_aliases(CAT, Page(1)).next_token
        for call in (
            lambda: catalog.list_aliases(CAT, Page(1, moves)),
            lambda: catalog.alias_history(CAT, "prod", Page(1, names)),
            lambda: catalog.alias_history(CAT, "test", Page(1, moves)),
        ):
            with pytest.raises(InvalidPageToken):
                call()


class RollbackRules:
    def test_a_rollback_points_to_where_it_pointed_before(self, catalog: Catalog) -> None:
        first, second, third = (publish(catalog, seed=seed, alias="prod") for seed in (1, 2, 3))
        back = catalog.rollback_alias(CAT, "prod", 3)
        assert (back.alias, back.digest, back.number, back.revision) == ("prod", second, 2, 4)
        assert catalog.resolve(ref("cat:prod")).digest == second
        assert history(catalog) == [(4, second, 2), (3, third, 3), (2, second, 2), (1, first, 1)]

    def test_a_second_rollback_goes_forth_again(self, catalog: Catalog) -> None:
        for seed in (1, 2, 3):
            publish(catalog, seed=seed, alias="prod")
        numbers = [catalog.rollback_alias(CAT, "prod", None).number for _ in range(3)]
        assert numbers == [2, 3, 2]

    def test_setting_what_is_set_is_no_move_to_go_back_over(self, catalog: Catalog) -> None:
        publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2, alias="prod")
        catalog.set_alias(ref("cat@2"), "prod", None)
        assert catalog.rollback_alias(CAT, "prod", None).number == 1

    def test_an_alias_that_never_moved_has_nothing_to_go_back_to(self, catalog: Catalog) -> None:
        publish(catalog, alias="prod")
        with pytest.raises(NoEarlierVersion):
            catalog.rollback_alias(CAT, "prod", None)

    def test_an_alias_that_was_made_anew_has_nothing_before_that(self, catalog: Catalog) -> None:
        publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2, alias="prod")
        catalog.delete_alias(CAT, "prod", None)
        with pytest.raises(AliasNotFound):
            catalog.rollback_alias(CAT, "prod", None)
        catalog.set_alias(ref("cat@2"), "prod", None)
        with pytest.raises(NoEarlierVersion):
            catalog.rollback_alias(CAT, "prod", None)
        catalog.set_alias(ref("cat@1"), "prod", None)
        assert catalog.rollback_alias(CAT, "prod", None).number == 2

    def test_a_rollback_from_another_revision_is_refused(self, catalog: Catalog) -> None:
        publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2, alias="prod")
        with pytest.raises(RevisionConflict) as refused:
            catalog.rollback_alias(CAT, "prod", 1)
        assert refused.value.metadata == {"revision": "2"}
        assert len(history(catalog)) == 2

    def test_a_version_that_is_gone_or_yanked_is_not_gone_back_to(self, catalog: Catalog) -> None:
        publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2, alias="prod")
        catalog.yank_version(ref("cat@1"), "wrong data")
        with pytest.raises(VersionYanked, match="wrong data"):
            catalog.rollback_alias(CAT, "prod", None)
        catalog.delete_version(ref("cat@1"), force=False)
        with pytest.raises(VersionNotFound):
            catalog.rollback_alias(CAT, "prod", None)
        publish(catalog, seed=1)  # the same bytes again, under another number
        assert catalog.rollback_alias(CAT, "prod", None).number == 3

    def test_a_rollback_is_told_as_a_move(self, catalog: Catalog) -> None:
        first = publish(catalog, seed=1, alias="prod")
        publish(catalog, seed=2, alias="prod")
        after = catalog.last_event()
        catalog.rollback_alias(CAT, "prod", None)
        (event,) = catalog.events(after, None, 9)
        assert (event.digest, event.number, event.text) == (first, 3, "prod")

    def test_an_adapter_has_so_many_aliases_at_most(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(aliases, "MAX_ALIASES", 3)
        publish(catalog, alias="a0")
        for name in ("a1", "a2"):
            catalog.set_alias(ref("cat"), name, None)
        with pytest.raises(QuotaExceeded, match="cat: expected at most 3 aliases, it has 3"):
            catalog.set_alias(ref("cat"), "a3", None)
        with pytest.raises(QuotaExceeded):
            publish(catalog, seed=2, alias="a3")
        catalog.set_alias(ref("cat"), "a1", None)  # is there already
        catalog.delete_alias(CAT, "a1", None)
        catalog.set_alias(ref("cat"), "a3", None)
