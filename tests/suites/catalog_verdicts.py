"""What a catalogue promises about families of bases and about verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import EventKind, Page
from adapter_registry.domain.verdicts import Verdict
from lorry.errors import AdapterNotFound, BaseNotFound, InvalidInput, InvalidPageToken
from lorry.format.base import BaseFacts
from lorry.format.compatibility import CarryOver
from lorry.format.facts import AdaptedExperts, AdaptedModule
from lorry.format.findings import Code
from tests.suites.catalog_values import a_base, digest, everything, ref, with_experts
from tests.suites.verdict_values import FACTS, base_id, judge_all, publish, stored, variant, verdicts


class FamilyRules:
    def test_a_family_is_kept_as_declared(self, catalog: Catalog) -> None:
        catalog.add_base(variant(1, None))
        stored, _ = catalog.add_base(variant(2, 1, CarryOver.WARN))
        assert (stored.derived_from, stored.carry_over) == (base_id(1), CarryOver.WARN)
        assert catalog.families().carry_over(base_id(1), base_id(2)) is CarryOver.WARN

    def test_a_base_again_does_not_change_its_family(self, catalog: Catalog) -> None:
        catalog.add_base(variant(2, 1))
        again, created = catalog.add_base(variant(2, None, CarryOver.REFUSE))
        assert (again.derived_from, again.carry_over, created) == (base_id(1), CarryOver.ALLOW, False)

    def test_an_update_writes_what_is_given_and_is_told_once(self, catalog: Catalog) -> None:
        catalog.add_base(variant(1, None))
        catalog.add_base(variant(2, None, CarryOver.REFUSE))
        at = catalog.last_event()
        for _ in range(2):
            moved = catalog.update_base("base-2", derived_from=base_id(1), carry_over=None)
            assert (moved.derived_from, moved.carry_over) == (base_id(1), CarryOver.REFUSE)
        allowed = catalog.update_base(base_id(2), derived_from=None, carry_over=CarryOver.ALLOW)
        assert (allowed.derived_from, allowed.carry_over) == (base_id(1), CarryOver.ALLOW)
        alone = catalog.update_base("base-2", derived_from="", carry_over=None)
        assert (alone.derived_from, alone) == (None, catalog.get_base("base-2"))
        events = catalog.events(at, None, 10)
        assert [(event.kind, event.digest) for event in events] == [(EventKind.BASE_UPDATED, base_id(2))] * 3

    def test_an_unknown_base_has_no_family(self, catalog: Catalog) -> None:
        with pytest.raises(BaseNotFound):
            catalog.update_base("base-1", derived_from="", carry_over=None)

    def test_a_base_never_descends_from_itself(self, catalog: Catalog) -> None:
        with pytest.raises(InvalidInput):
            catalog.add_base(variant(1, 1))
        catalog.add_base(variant(2, 1))
        catalog.add_base(variant(3, 2))
        with pytest.raises(InvalidInput, match="descend"):
            catalog.add_base(variant(1, 3))
        catalog.add_base(variant(1, None))
        for parent in (1, 2, 3):
            with pytest.raises(InvalidInput, match="descend"):
                catalog.update_base("base-1", derived_from=base_id(parent), carry_over=CarryOver.WARN)
        assert (catalog.get_base("base-1").derived_from, catalog.get_base("base-1").carry_over) == (
            None,
            CarryOver.ALLOW,
        )


class VerdictRules:
    def test_what_a_version_is_is_kept(self, catalog: Catalog) -> None:
        assert catalog.stored_facts(publish(catalog)) == FACTS
        assert catalog.stored_facts(digest("nothing")) is None

    def test_a_version_is_judged_against_every_base_when_it_is_published(self, catalog: Catalog) -> None:
        for base in (variant(1, None), variant(2, 1), variant(3, 2, CarryOver.WARN), variant(4, None)):
            catalog.add_base(base)
        publish(catalog)
        expected = {"base-1": [], "base-2": [], "base-3": [Code.BASE_VARIANT], "base-4": [Code.BASE_MISMATCH]}
        assert verdicts(catalog) == expected
        assert [stored(catalog, base) for base in (1, 2, 3, 4)] == [["cat"], ["cat"], ["cat"], []]

    def test_a_base_that_comes_later_is_answered_at_once_and_stored_in_batches(
        self, catalog: Catalog, reopen: Callable[[], Catalog]
    ) -> None:
        catalog.add_base(variant(1, None))
        for seed in range(5):
            publish(catalog, f"cat-{seed}", seed)
        catalog.add_base(variant(2, 1))
        assert verdicts(catalog, "cat-3") == {"base-1": [], "base-2": []}
        assert stored(catalog, 2) == []
        other = reopen()
        assert other.judge_versions(base_id(2), 0, 2) is not None  # another replica has begun
        assert judge_all(catalog, 2) == 2
        assert judge_all(other, 2) == 1
        assert stored(catalog, 2) == [f"cat-{seed}" for seed in range(5)]

    def test_verdicts_follow_the_family_and_all_below_it(self, catalog: Catalog) -> None:
        for base in (variant(1, None), variant(2, None), variant(3, 2)):
            catalog.add_base(base)
        publish(catalog)
        assert verdicts(catalog)["base-3"] == [Code.BASE_MISMATCH]
        catalog.update_base("base-2", derived_from=base_id(1), carry_over=None)
        assert verdicts(catalog) == {"base-1": [], "base-2": [], "base-3": []}
        judge_all(catalog, 3)
        assert stored(catalog, 3) == ["cat"]
        catalog.update_base("base-3", derived_from=None, carry_over=CarryOver.REFUSE)
        assert verdicts(catalog) == {"base-1": [], "base-2": [], "base-3": [Code.BASE_MISMATCH]}

    def test_a_parent_that_comes_later_joins_the_line(self, catalog: Catalog) -> None:
        catalog.add_base(variant(1, None))
        catalog.add_base(variant(3, 2))
        publish(catalog)
        assert verdicts(catalog)["base-3"] == [Code.BASE_MISMATCH]
        catalog.add_base(variant(2, 1))
        assert verdicts(catalog)["base-3"] == []

    def test_a_base_of_another_shape_has_every_reason_told_again(self, catalog: Catalog) -> None:
        catalog.add_base(variant(1, None))
        wide = a_base(2, "wide")
        catalog.add_base(replace(wide, facts=_without_modules(wide.facts)))
        publish(catalog)
        (_, verdict) = everything(lambda page: catalog.list_verdicts(ref("cat"), FACTS, page))
        assert not verdict.compatible
        assert [(finding.code, finding.module) for finding in verdict.findings] == [
            (Code.BASE_MISMATCH, ""),
            (Code.UNKNOWN_MODULE, "layers.0.q"),
        ]
        assert verdict == _computed(catalog, verdict)

    def test_experts_that_a_base_learns_are_judged(self, catalog: Catalog) -> None:
        catalog.add_base(a_base())
        facts = replace(FACTS, experts=(AdaptedExperts("x.experts", "down_proj", 6, 2, 1.0, 4, 8),))
        publish(catalog, facts=facts)

        def judged() -> list[tuple[Code, bool]]:
            (verdict,) = everything(lambda page: catalog.list_verdicts(ref("cat"), facts, page))
            return [(finding.code, finding.warning) for finding in verdict.findings]

        assert judged() == [(Code.UNKNOWN_MODULE, True)]
        catalog.add_base(with_experts(7))
        assert judged() == [(Code.SHAPE_MISMATCH, False)]

    def test_versions_of_earlier_releases_get_their_facts_later(self, catalog: Catalog) -> None:
        catalog.add_base(variant(1, None))
        bare = [publish(catalog, f"cat-{seed}", seed, facts=None) for seed in range(3)]
        publish(catalog, "twin", 2, facts=None)
        assert judge_all(catalog, 1) == 1
        assert stored(catalog, 1) == []
        first, rest = catalog.versions_without_facts("", 1), catalog.versions_without_facts(min(bare), 10)
        assert [manifest.digest for manifest in (*first, *dict.fromkeys(rest))] == sorted(bare)
        catalog.add_facts(dict.fromkeys([*bare, digest("gone")], FACTS))
        catalog.add_facts({bare[0]: FACTS})
        assert catalog.versions_without_facts("", 10) == []
        judge_all(catalog, 1)
        assert stored(catalog, 1) == ["cat-0", "cat-1", "cat-2", "twin"]

    def test_a_version_that_is_deleted_takes_its_verdicts_along(self, catalog: Catalog) -> None:
        catalog.add_base(variant(1, None))
        publish(catalog)
        catalog.delete_version(ref("cat@1"), force=True)
        judge_all(catalog, 1)
        publish(catalog, seed=2)
        assert stored(catalog, 1) == ["cat"]

    def test_verdicts_come_in_pages_by_name_of_the_base(self, catalog: Catalog) -> None:
        for seed in (3, 1, 2):
            catalog.add_base(variant(seed, None))
        publish(catalog)
        first = catalog.list_verdicts(ref("cat"), FACTS, Page(2))
        assert [verdict.base_name for verdict in first.items] == ["base-1", "base-2"]
        assert [v.base_id for v in catalog.list_verdicts(ref("cat"), FACTS, Page(2, first.next_token)).items] == [
            base_id(3)
        ]
        publish(catalog, seed=2)
        with pytest.raises(InvalidPageToken):
            catalog.list_verdicts(ref("cat"), FACTS, Page(2, first.next_token))
        with pytest.raises(AdapterNotFound):
            catalog.list_verdicts(ref("dog"), FACTS, Page())

    def test_a_page_of_long_verdicts_is_cut_short(self, catalog: Catalog) -> None:
        for seed in range(1, 5):
            catalog.add_base(variant(seed, None))
        modules = tuple(AdaptedModule(f"{'x' * 400}.{number}", 4, 1.0, 8, 16) for number in range(1_000))
        publish(catalog, facts=replace(FACTS, modules=modules))
        first = catalog.list_verdicts(ref("cat"), FACTS, Page())
        assert (len(first.items), len(first.items[0].findings)) == (2, 1_000)
        rest = catalog.list_verdicts(ref("cat"), FACTS, Page(10, first.next_token))
        assert [verdict.base_name for verdict in rest.items] == ["base-3", "base-4"]
        assert not rest.next_token


def _without_modules(facts: BaseFacts) -> BaseFacts:
    return replace(facts, modules=facts.modules[1:])


def _computed(catalog: Catalog, of: Verdict) -> Verdict:
    """The same verdict on a version whose verdicts were never stored."""
    publish(catalog, "bare", 9, facts=None)
    found = everything(lambda page: catalog.list_verdicts(ref("bare"), FACTS, page))
    return next(verdict for verdict in found if verdict.base_id == of.base_id)
