"""What a catalogue promises about its outbox, and about what outlives a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.garbage import Ages
from adapter_registry.domain.records import Event, EventKind, Page
from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.models import EventRow
from lorry.errors import ResumeTokenExpired, RevisionConflict
from tests.suites.catalog_values import a_base, adapter, publish, ref

CAT = adapter("cat")


def told(events: list[Event]) -> list[tuple[EventKind, str, str, int, str]]:
    return [(e.kind, e.name, e.digest, e.number, e.text) for e in events]


def forget(catalog: SqlCatalog, before: datetime) -> None:
    """Let go of the events that were committed before then."""
    while catalog.forget(Ages(events=before, uploads=before, audit=None), 3):
        pass


def busy_day(catalog: Catalog) -> tuple[str, str]:
    """Something of every kind; answers the digests of two versions."""
    catalog.add_base(a_base())
    first, second = publish(catalog, seed=1, alias="prod"), publish(catalog, seed=2)
    catalog.set_alias(ref("cat@2"), "prod", None)
    catalog.yank_version(ref("cat@1"), "wrong data")
    catalog.delete_alias(CAT, "prod", None)
    catalog.delete_version(ref("cat@1"), force=False)
    return first, second


class EventRules:
    def test_everything_that_happens_is_told_in_order(self, catalog: Catalog) -> None:
        assert (catalog.events(0, None, 100), catalog.last_event()) == ([], 0)
        first, second = busy_day(catalog)
        events = catalog.events(0, None, 100)
        assert told(events) == [
            (EventKind.BASE_REGISTERED, "", a_base().facts.base_id, 0, ""),
            (EventKind.VERSION_CREATED, "cat", first, 1, ""),
            (EventKind.ALIAS_MOVED, "cat", first, 1, "prod"),
            (EventKind.VERSION_CREATED, "cat", second, 2, ""),
            (EventKind.ALIAS_MOVED, "cat", second, 2, "prod"),
            (EventKind.VERSION_YANKED, "cat", first, 1, "wrong data"),
            (EventKind.ALIAS_DELETED, "cat", second, 3, "prod"),
            (EventKind.VERSION_DELETED, "cat", first, 1, ""),
        ]
        sequences = [event.sequence for event in events]
        assert sequences == sorted(set(sequences))
        assert sequences[0] > 0
        assert catalog.last_event() == sequences[-1]
        assert {event.committed.tzinfo for event in events} == {UTC}

    def test_deletion_tells_what_it_takes_along(self, catalog: Catalog) -> None:
        digests = [publish(catalog, seed=seed, alias=f"alias-{seed}") for seed in range(3)]
        after = catalog.last_event()
        catalog.delete_adapter(CAT, force=False)
        moved = [(EventKind.ALIAS_DELETED, "cat", digests[n], 2, f"alias-{n}") for n in range(3)]
        gone = [(EventKind.VERSION_DELETED, "cat", digests[n], n + 1, "") for n in range(3)]
        assert told(catalog.events(after, None, 100)) == moved + gone

    def test_reading_goes_on_behind_any_event(self, catalog: Catalog) -> None:
        busy_day(catalog)
        events = catalog.events(0, None, 100)
        for index, event in enumerate(events):
            assert catalog.events(event.sequence, None, 100) == events[index + 1 :]
        read: list[Event] = []
        while some := catalog.events(read[-1].sequence if read else 0, None, 3):
            assert len(some) <= 3
            read += some
        assert read == events

    def test_a_namespace_hears_its_own_events(self, catalog: Catalog) -> None:
        busy_day(catalog)
        publish(catalog, "team/cat", 5, alias="prod")
        kinds = [(event.namespace, event.kind) for event in catalog.events(0, frozenset({"team"}), 100)]
        assert kinds == [("team", EventKind.VERSION_CREATED), ("team", EventKind.ALIAS_MOVED)]
        assert {event.namespace for event in catalog.events(0, None, 100)} == {"", "default", "team"}

    def test_several_namespaces_are_read_together_and_bases_are_the_empty_one(self, catalog: Catalog) -> None:
        busy_day(catalog)
        publish(catalog, "team/cat", 5)
        publish(catalog, "crew/cat", 6)
        some = catalog.events(0, frozenset({"", "team"}), 100)
        assert [event.namespace for event in some] == ["", "team"]
        assert catalog.events(0, frozenset(), 100) == []

    def test_whoever_listens_is_woken_by_what_is_told(self, catalog: Catalog) -> None:
        woken = threading.Event()
        listening = catalog.listen(woken.set)
        try:
            for seed in range(3):
                woken.clear()
                publish(catalog, seed=seed)
                assert woken.wait(30)
        finally:
            listening.close()

    def test_old_events_go_first_to_last_and_the_newest_stays(self, catalog: SqlCatalog) -> None:
        busy_day(catalog)
        events = catalog.events(0, None, 100)
        forget(catalog, events[3].committed)
        assert catalog.events(0, None, 100) == events[3:]
        forget(catalog, datetime.now(UTC) + timedelta(days=1))
        assert catalog.events(0, None, 100) == events[-1:]
        assert catalog.last_event() == events[-1].sequence

    def test_reading_on_behind_what_is_not_kept_is_refused(self, catalog: SqlCatalog) -> None:
        busy_day(catalog)
        events = catalog.events(0, None, 100)
        forget(catalog, events[4].committed)
        for missed in events[:3]:
            with pytest.raises(ResumeTokenExpired):
                catalog.events(missed.sequence, None, 100)
            with pytest.raises(ResumeTokenExpired):
                catalog.events(missed.sequence, frozenset({"team"}), 100)
        assert catalog.events(events[3].sequence, None, 100) == events[4:]

    def test_a_clock_that_was_set_back_tears_no_hole(self, catalog: SqlCatalog) -> None:
        busy_day(catalog)
        events = catalog.events(0, None, 100)
        with catalog._database.write() as session:
            session.get(EventRow, events[2].sequence).committed += timedelta(days=9)
        forget(catalog, events[-1].committed + timedelta(days=1))
        assert [event.sequence for event in catalog.events(0, None, 100)] == [e.sequence for e in events[2:]]

    def test_what_changes_nothing_and_what_fails_is_not_told(self, catalog: Catalog) -> None:
        busy_day(catalog)
        publish(catalog, "dog", 7, alias="prod")
        catalog.yank_version(ref("dog@1"), "bites")
        before = catalog.events(0, None, 100)
        catalog.add_base(a_base())
        publish(catalog, "cat", 2)
        catalog.yank_version(ref("dog@1"), "again")
        with pytest.raises(RevisionConflict):
            catalog.delete_alias(adapter("dog"), "prod", 7)
        with pytest.raises(RevisionConflict):
            catalog.set_alias(ref("cat@2"), "prod", 7)
        assert catalog.events(0, None, 100) == before

    def test_a_restart_keeps_everything(self, catalog: Catalog, reopen: Callable[[], Catalog]) -> None:
        _, second = busy_day(catalog)
        publish(catalog, "dog", 9, parents=(second,), alias="prod")
        again = reopen()
        for read in (
            lambda c: c.list_bases(Page()),
            lambda c: c.list_adapters(None, (), Page()),
            lambda c: c.list_versions(CAT, Page()),
            lambda c: c.list_aliases(adapter("dog"), Page()),
            lambda c: c.alias_history(CAT, "prod", Page()),
            lambda c: c.events(0, None, 100),
            lambda c: c.last_event(),
        ):
            assert read(again) == read(catalog)

    def test_a_page_token_outlives_a_restart(self, catalog: Catalog, reopen: Callable[[], Catalog]) -> None:
        for seed in (1, 2, 3):
            publish(catalog, seed=seed)
        page = Page(1, catalog.list_versions(CAT, Page(1)).next_token)
        assert reopen().list_versions(CAT, page) == catalog.list_versions(CAT, page)

    def test_a_sequence_is_not_given_again_when_a_write_is_undone(self, catalog: Catalog) -> None:
        publish(catalog)
        last = catalog.last_event()
        with pytest.raises(RevisionConflict):
            catalog.set_alias(ref("cat@1"), "prod", 5)
        publish(catalog, seed=2)
        assert [event.sequence > last for event in catalog.events(last, None, 10)] == [True]

    def test_it_answers(self, catalog: Catalog) -> None:
        catalog.probe()
