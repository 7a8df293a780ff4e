"""What a catalogue promises about base models."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.principals import AuditQuery
from adapter_registry.domain.records import MAX_KNOWN_AS, EventKind, Page
from lorry.errors import BaseConflict, BaseNotFound, Exhausted, InvalidInput, InvalidPageToken
from tests.suites.catalog_values import a_base, digest, everything, with_experts


class BaseRules:
    def test_a_base_is_read_as_it_was_stored(self, catalog: Catalog) -> None:
        base = replace(a_base(known_as=("Org/Tiny",)), derived_from=digest("parent"))
        stored, created = catalog.add_base(base)
        assert created
        assert stored.created is not None
        assert stored.created.tzinfo is UTC
        assert replace(stored, created=None) == base
        assert catalog.get_base("tiny") == stored

    def test_a_base_is_found_by_name_id_and_further_names(self, catalog: Catalog) -> None:
        stored, _ = catalog.add_base(a_base(known_as=("Org/Tiny", "./tiny")))
        for name in ("tiny", stored.facts.base_id, "Org/Tiny", "./tiny"):
            assert catalog.get_base(name) == stored

    @pytest.mark.parametrize("name", ["", "tiny", "TINY", "%", digest("no base"), "é" * 300])
    def test_an_unknown_base_is_not_found(self, catalog: Catalog, name: str) -> None:
        catalog.add_base(a_base(name="other"))
        with pytest.raises(BaseNotFound):
            catalog.get_base(name)

    def test_the_same_base_again_is_answered_with_new_names_added(self, catalog: Catalog) -> None:
        first, _ = catalog.add_base(a_base(known_as=("a",)))
        again, created = catalog.add_base(a_base(known_as=("b", "a")))
        assert not created
        assert again == replace(first, known_as=("a", "b"))

    def test_a_known_base_under_another_name_keeps_its_name_and_is_known_as_the_other(self, catalog: Catalog) -> None:
        catalog.add_base(a_base(name="tiny"))
        stored, created = catalog.add_base(a_base(name="tiny-2"))
        assert (stored.name, stored.known_as, created) == ("tiny", ("tiny-2",), False)
        assert catalog.get_base("tiny-2") == stored

    def test_a_further_name_is_told_and_audited(self, catalog: Catalog) -> None:
        catalog.add_base(a_base())
        at = catalog.last_event()
        for _ in range(2):
            catalog.add_base(a_base(known_as=("a",)))
        assert [event.kind for event in catalog.events(at, None, 10)] == [EventKind.BASE_UPDATED]
        assert len(catalog.audit_entries(AuditQuery(), Page()).items) == 2

    def test_a_base_has_so_many_further_names_and_not_more(self, catalog: Catalog) -> None:
        names = tuple(f"name-{number:02}" for number in range(MAX_KNOWN_AS))
        catalog.add_base(a_base(known_as=names))
        for another in (a_base(name="another"), a_base(known_as=("another",))):
            with pytest.raises(Exhausted, match="'another'"):
                catalog.add_base(another)
        assert catalog.add_base(a_base(known_as=names))[0].known_as == names

    def test_the_name_of_another_base_is_refused(self, catalog: Catalog) -> None:
        catalog.add_base(a_base(1, "tiny", known_as=("small",)))
        for name in ("tiny", "small"):
            with pytest.raises(BaseConflict, match=name):
                catalog.add_base(a_base(2, name))
        assert [base.name for base in catalog.list_bases(Page()).items] == ["tiny"]

    def test_a_known_base_cannot_take_the_name_of_another_either(self, catalog: Catalog) -> None:
        catalog.add_base(a_base(1, "tiny"))
        catalog.add_base(a_base(2, "big"))
        with pytest.raises(BaseConflict):
            catalog.add_base(a_base(2, "tiny"))

    def test_one_fingerprint_with_two_shapes_is_refused(self, catalog: Catalog) -> None:
        catalog.add_base(a_base(vocab_size=32))
        with pytest.raises(BaseConflict, match="another shape"):
            catalog.add_base(a_base(vocab_size=33))

    def test_a_base_that_was_registered_without_its_experts_learns_them(self, catalog: Catalog) -> None:
        catalog.add_base(a_base())
        at = catalog.last_event()
        learnt, created = catalog.add_base(with_experts(6))
        assert (learnt.facts, created) == (with_experts(6).facts, False)
        # Who still leaves them out says nothing.
        assert catalog.add_base(a_base())[0] == learnt
        assert [event.kind for event in catalog.events(at, None, 10)] == [EventKind.BASE_UPDATED]
        with pytest.raises(BaseConflict, match="another shape"):
            catalog.add_base(with_experts(7))
        assert catalog.get_base("tiny") == learnt

    def test_a_further_name_that_two_bases_share_means_the_first(self, catalog: Catalog) -> None:
        catalog.add_base(a_base(2, "zebra", known_as=("Org/Tiny",)))
        catalog.add_base(a_base(1, "ape", known_as=("Org/Tiny",)))
        assert catalog.get_base("Org/Tiny").name == "zebra"

    def test_a_name_goes_before_a_further_name(self, catalog: Catalog) -> None:
        catalog.add_base(a_base(1, "tiny"))
        catalog.add_base(a_base(2, "big", known_as=("tiny",)))
        assert catalog.get_base("tiny").facts.base_id == a_base(1).facts.base_id

    def test_bases_are_listed_by_name(self, catalog: Catalog) -> None:
        names = ["b", "a-1", "a", "a.1", "0", "c"]
        for seed, name in enumerate(names):
            catalog.add_base(a_base(seed, name, known_as=(f"also-{name}",)))
        listed = everything(catalog.list_bases, size=2)
        assert [base.name for base in listed] == sorted(names)
        assert listed[0] == catalog.get_base("0")

    @pytest.mark.parametrize("size", [1, 3, 0, 5_000])
    def test_a_page_has_at_most_the_size_asked_for(self, catalog: Catalog, size: int) -> None:
        for seed in range(3):
            catalog.add_base(a_base(seed, f"base-{seed}"))
        listing = catalog.list_bases(Page(size))
        assert len(listing.items) == (1 if size == 1 else 3)
        assert bool(listing.next_token) == (size == 1)

    def test_a_negative_size_and_a_foreign_token_are_refused(self, catalog: Catalog) -> None:
        with pytest.raises(InvalidInput):
            catalog.list_bases(Page(-1))
        with pytest.raises(InvalidPageToken):
            catalog.list_bases(Page(1, "bm8"))

    def test_text_that_not_every_database_can_hold_is_refused_or_kept_whole(self, catalog: Catalog) -> None:
        try:
            catalog.add_base(a_base(known_as=("a\0b",)))
        except InvalidInput:
            return
        assert catalog.get_base("tiny").known_as == ("a\0b",)
