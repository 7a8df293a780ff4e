"""What a catalogue promises about the quota of uploads that are not finished."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from adapter_registry.domain.blobs import Reservation
from adapter_registry.domain.garbage import Ages
from adapter_registry.domain.namespaces import NamespaceChange
from adapter_registry.domain.records import Page
from adapter_registry.store import reservations
from adapter_registry.store.catalog import SqlCatalog
from lorry.errors import QuotaExceeded
from tests.suites.catalog_values import digest, publish

LIMIT = 100


def room(seed: int, place: int = 0) -> Reservation:
    return Reservation("team", digest(seed), place)


def coming(catalog: SqlCatalog) -> int:
    return catalog.get_namespace("team").uploading_bytes


class ReservationRules:
    @pytest.fixture
    def limited(self, catalog: SqlCatalog) -> SqlCatalog:
        catalog.update_namespace(NamespaceChange("team", max_bytes=LIMIT))
        return catalog

    def test_a_limit_makes_uploads_need_a_reservation(self, catalog: SqlCatalog) -> None:
        assert not catalog.admit(digest(1), 10, "team").metered
        catalog.update_namespace(NamespaceChange("team", max_bytes=LIMIT))
        assert catalog.admit(digest(1), 10, "team").metered
        catalog.record(digest(1), 10, b"", "team")
        assert not catalog.admit(digest(1), 10, "team").metered

    def test_what_is_reserved_is_not_there_for_others(self, limited: SqlCatalog) -> None:
        limited.record(digest(9), 20, b"", "team")
        limited.reserve(room(1), 60)
        with pytest.raises(QuotaExceeded) as refused:
            limited.reserve(room(2), 21)
        assert refused.value.metadata == {"limit": "100", "used": "80", "asked": "21"}
        with pytest.raises(QuotaExceeded):
            limited.record(digest(2), 21, b"", "team")
        limited.reserve(room(2), 15)
        publish(limited, "other/cat", 3)
        with pytest.raises(QuotaExceeded):
            publish(limited, "team/cat", 3)
        limited.reserve(room(2), 10)
        publish(limited, "team/cat", 3)
        assert coming(limited) == 70

    def test_the_same_reservation_counts_once_whatever_it_was_before(self, limited: SqlCatalog) -> None:
        for size in (80, 100, 30):
            limited.reserve(room(1), size)
            assert coming(limited) == size
        limited.reserve(room(1, place=1), 30)
        assert coming(limited) == 60

    def test_what_is_recorded_is_reserved_no_more(self, limited: SqlCatalog) -> None:
        limited.reserve(room(1), LIMIT)
        limited.record(digest(1), LIMIT, b"", "team", room(1))
        held = limited.get_namespace("team")
        assert (held.used_bytes, held.uploading_bytes) == (LIMIT, 0)

    def test_what_broke_off_counts_as_what_is_kept_of_it(self, limited: SqlCatalog) -> None:
        limited.reserve(room(1), LIMIT)
        limited.release(room(1), 7)
        assert coming(limited) == 7
        limited.reserve(room(2), LIMIT - 7)
        limited.release(room(2), 0)
        assert coming(limited) == 7
        limited.release(room(3), 5)  # of nothing that was reserved
        assert coming(limited) == 7

    def test_uploads_that_nobody_runs_count_no_more_than_the_store_has_of_any(self, limited: SqlCatalog) -> None:
        for place, size in enumerate((10, 5, 20)):
            limited.reserve(room(1, place), size)
        limited.reserve(room(2), 15)
        now = datetime.now(UTC)
        limited.reserve(room(1, 3), 11)
        limited.trim(digest(1), "team", 7, {2}, now)
        assert coming(limited) == 7 + 5 + 20 + 11 + 15
        limited.trim(digest(1), "team", 0, set(), datetime.now(UTC))
        assert coming(limited) == 15
        assert [limited.reserves(digest(seed), "team") for seed in (1, 2)] == [False, True]

    def test_what_nobody_renews_is_forgotten(self, limited: SqlCatalog) -> None:
        limited.reserve(room(1), 10)
        limited.release(room(1), 7)
        middle = datetime.now(UTC)
        limited.reserve(room(2), 10)
        ages = Ages(events=middle - timedelta(days=1), uploads=middle, audit=None)
        assert (limited.forgettable(ages), limited.forget(ages, 10), limited.forget(ages, 10)) == (1, 1, 0)
        assert coming(limited) == 10

    def test_unfinished_uploads_are_counted_too(self, limited: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reservations, "MAX_UNFINISHED", 2)
        for seed in range(2):
            limited.reserve(room(seed), 0)
        with pytest.raises(QuotaExceeded, match="at most 2 unfinished uploads"):
            limited.reserve(room(2), 0)
        limited.reserve(room(1), 1)

    def test_namespaces_are_listed_with_what_comes(self, limited: SqlCatalog) -> None:
        limited.reserve(room(1), 10)
        (listed,) = limited.list_namespaces(None, Page()).items
        assert listed == limited.get_namespace("team")
        assert listed.uploading_bytes == 10
