"""What a catalogue promises to those who keep it in order: see domain.garbage.Upkeep."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from adapter_registry.domain.garbage import Ages, StoredBlob
from adapter_registry.domain.records import Page
from adapter_registry.store.catalog import SqlCatalog
from lorry.errors import AlreadyRunning, BlobBeingSwept, MissingBlobs
from lorry.format.digest import digest_of
from tests.suites.catalog_races import at_once
from tests.suites.catalog_values import a_manifest, a_version, digest, publish, ref

SIZE = 10


def now() -> datetime:
    return datetime.now(UTC)


def record(catalog: SqlCatalog, seed: int, namespace: str = "default") -> str:
    """The row of a blob of SIZE bytes, which manifest number `seed` names."""
    catalog.record(digest(seed), SIZE, b"", namespace)
    return digest(seed)


def garbage(catalog: SqlCatalog, before: datetime | None = None) -> list[str]:
    return [blob.digest for blob in catalog.unnamed(before or now(), "", 100)]


def used(catalog: SqlCatalog, namespace: str) -> int:
    return catalog.get_namespace(namespace).used_bytes


class UpkeepRules:
    def test_what_no_version_names_is_garbage_once_its_grace_is_over(self, catalog: SqlCatalog) -> None:
        begin = now()
        record(catalog, 1)
        publish(catalog, "cat", 2)
        assert garbage(catalog, begin) == []
        assert garbage(catalog) == [digest(1)]

    def test_being_asked_for_and_being_let_go_begin_the_grace_anew(self, catalog: SqlCatalog) -> None:
        publish(catalog, "cat", 1)
        before = now()
        catalog.delete_version(ref("cat@1"), force=False)
        assert (garbage(catalog, before), garbage(catalog)) == ([], [digest(1)])

    def test_garbage_comes_in_pages_by_digest(self, catalog: SqlCatalog) -> None:
        digests = sorted(record(catalog, seed) for seed in range(5))
        first = catalog.unnamed(now(), "", 2)
        assert [blob.digest for blob in first] == digests[:2]
        assert [blob.digest for blob in catalog.unnamed(now(), first[-1].digest, 100)] == digests[2:]

    def test_condemning_looks_again(self, catalog: SqlCatalog) -> None:
        doomed, named, touched = record(catalog, 1), record(catalog, 2), record(catalog, 3)
        before = now()
        publish(catalog, "cat", 2)
        record(catalog, 3)
        assert [blob.digest for blob in catalog.condemn([doomed, named, touched], before)] == [doomed]
        assert [blob.digest for blob in catalog.condemned("", 10)] == [doomed]
        assert garbage(catalog) == [touched]

    def test_a_condemned_blob_can_be_neither_sent_nor_named_until_its_row_is_gone(self, catalog: SqlCatalog) -> None:
        record(catalog, 1)
        catalog.condemn([digest(1)], now())
        with pytest.raises(BlobBeingSwept):
            catalog.admit(digest(1), SIZE, "default")
        with pytest.raises(BlobBeingSwept):
            record(catalog, 1)
        with pytest.raises(MissingBlobs):
            SqlCatalog.create_version(catalog, a_version("cat", 1))
        assert catalog.present([digest(1)], "default") == set()
        catalog.remove([digest(1)])
        assert catalog.states("", 10) == []
        record(catalog, 1)
        publish(catalog, "cat", 1)

    def test_only_condemned_rows_are_removed(self, catalog: SqlCatalog) -> None:
        record(catalog, 1)
        catalog.remove([digest(1)])
        assert [state.digest for state in catalog.states("", 10)] == [digest(1)]

    def test_condemned_bytes_are_off_the_account_of_every_namespace(self, catalog: SqlCatalog) -> None:
        for namespace in ("one", "two"):
            record(catalog, 1, namespace)
            record(catalog, 2, namespace)
        catalog.condemn([digest(1)], now())
        assert (used(catalog, "one"), used(catalog, "two")) == (SIZE, SIZE)
        assert catalog.held() == (1, SIZE)

    def test_what_the_storage_has_and_no_row_knows_gets_a_row(self, catalog: SqlCatalog) -> None:
        record(catalog, 1)
        old = now() - timedelta(days=3)
        found = [StoredBlob(digest(seed), SIZE, old) for seed in (1, 2)]
        assert catalog.strays(found) == [(found[1], False)]
        assert (catalog.adopt(found), catalog.adopt(found)) == (1, 0)
        assert (catalog.strays(found), garbage(catalog, now() - timedelta(days=2))) == ([], [digest(2)])

    def test_of_a_birth_and_a_sweep_at_once_one_wins(
        self, catalog: SqlCatalog, reopen: Callable[[], SqlCatalog]
    ) -> None:
        other = reopen()
        for seed in range(8):
            record(catalog, seed)
            birth, doomed = at_once(
                lambda n=seed: SqlCatalog.create_version(catalog, a_version(f"cat-{n}", n)),
                lambda n=seed: other.condemn([digest(n)], now()),
            )
            assert isinstance(birth, MissingBlobs) == bool(doomed)

    def test_one_at_a_time_has_a_turn(self, catalog: SqlCatalog, reopen: Callable[[], SqlCatalog]) -> None:
        turn = catalog.take_turn("gc")
        turn.confirm()
        for another in (catalog, reopen()):
            with pytest.raises(AlreadyRunning, match=rf"since {now():%Y-%m-%dT%H}"):
                another.take_turn("gc")
        catalog.take_turn("fsck").close()
        turn.close()
        reopen().take_turn("gc").close()

    def test_old_leases_events_and_entries_are_forgotten(self, catalog: SqlCatalog) -> None:
        for seed in (1, 2, 3):
            publish(catalog, "cat", seed)
        later = Ages(events=now(), uploads=now(), audit=None)
        cat = ref(f"cat@{catalog.resolve(ref('cat')).digest}")
        catalog.renew_leases("gone", [cat], timedelta(seconds=-1))
        catalog.renew_leases("worker", [cat], timedelta(seconds=30))
        assert catalog.forgettable(later) == 3
        assert (catalog.forget(later, 2), catalog.forget(later, 2), catalog.forget(later, 2)) == (3, 0, 0)
        assert [event.number for event in catalog.events(0, None, 10)] == [3]
        assert [lease.holder for lease in catalog.list_leases(ref("cat").adapter, Page()).items] == ["worker"]

    def test_the_audit_log_is_kept_unless_an_age_is_named(self, catalog: SqlCatalog) -> None:
        publish(catalog, "cat", 1)
        catalog.set_alias(ref("cat@1"), "prod", None)
        long_ago = now() - timedelta(days=1)
        entries = catalog.forgettable(Ages(events=long_ago, uploads=long_ago, audit=now()))
        assert entries > 0
        assert catalog.forgettable(Ages(events=long_ago, uploads=long_ago, audit=None)) == 0
        assert catalog.forget(Ages(events=long_ago, uploads=long_ago, audit=now()), 100) == entries

    def test_states_hold_what_rows_and_versions_name(self, catalog: SqlCatalog) -> None:
        publish(catalog, "cat", 1)
        publish(catalog, "dog", 1)
        record(catalog, 2)
        catalog.note_damage(digest(2), now())
        by_digest = {state.digest: state for state in catalog.states("", 10)}
        assert {name: state.quarantined for name, state in by_digest.items()} == {digest(1): False, digest(2): True}
        assert catalog.state(digest(2)) == by_digest[digest(2)]
        assert (catalog.namers(digest(1), 10), catalog.namers(digest(1), 1)) == (
            ["default/cat@1", "default/dog@1"],
            ["default/cat@1"],
        )

    def test_a_manifest_that_is_another_versions_is_found(self, catalog: SqlCatalog) -> None:
        for seed in (1, 2, 3):
            publish(catalog, "cat", seed)
        other = a_manifest(9).canonical_json().decode()
        with catalog._database.write() as session:
            session.execute(text("UPDATE versions SET manifest = :other WHERE number = 2"), {"other": other})
        spoilt, after, position = [], -1, 0
        while after:
            found, after = catalog.spoilt_manifests(position, 2)
            spoilt, position = spoilt + found, after
        assert spoilt == [(a_manifest(2).digest, "default/cat@2", digest_of(other.encode()))]
