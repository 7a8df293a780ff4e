"""What a catalogue promises about retention, quotas, and deletions that take more than one transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import EventKind, Expired, Page
from adapter_registry.store import removal, retention
from adapter_registry.store.keeping import BlobRow, NamespaceRow, VersionBlobRow, VersionModuleRow
from adapter_registry.store.models import AliasRow, LineageRow, MoveRow, VersionRow
from lorry.errors import AdapterNotFound, ParentNotFound, QuotaExceeded, Unavailable, VersionNotFound
from tests.suites.catalog_values import a_version, adapter, publish, ref

CAT = adapter("cat")
EVERYTHING = 1_000_000


def expired(catalog: Catalog, *, limit: int = EVERYTHING, dry_run: bool = False) -> list[str]:
    gone = catalog.expire_versions(limit, dry_run=dry_run)
    return [f"{namespace}/{name}@{number}" for namespace, name, number, _ in gone]


def numbers(catalog: Catalog) -> list[int]:
    return [version.number for version in catalog.list_versions(CAT, Page()).items]


def rows(catalog: Catalog, table: type) -> int:
    with catalog._database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def used_versions(catalog: Catalog, namespace: str = "default") -> int:
    with catalog._database.read() as session:
        return session.get_one(NamespaceRow, namespace).used_versions


class Crash(Exception):
    """The process ended here."""


class Batches:
    @pytest.fixture
    def small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (removal, retention):
            monkeypatch.setattr(module, "BATCH", 2)

    @pytest.fixture
    def half_deleted(self, catalog: Catalog, small_batches: None, monkeypatch: pytest.MonkeyPatch) -> Catalog:  # noqa: ARG002
        """The process ended when the first of several transactions was done."""
        for seed in range(5):
            publish(catalog, "cat", seed, alias=f"alias-{seed}" if seed == 4 else None)

        def end(_: float) -> None:
            raise Crash

        with monkeypatch.context() as patched:
            patched.setattr(removal.time, "sleep", end)
            with pytest.raises(Crash):
                catalog.delete_adapter(CAT, force=False)
        assert rows(catalog, VersionRow) > 0
        return catalog


class RetentionRules(Batches):
    def test_the_newest_stay_and_the_older_go(self, catalog: Catalog) -> None:
        digests = [publish(catalog, "cat", seed) for seed in range(6)]
        publish(catalog, "dog", 7)
        assert expired(catalog) == []
        catalog.update_adapter(CAT, keep_last=4)
        assert catalog.get_adapter(CAT).keep_last == 4
        whole = [Expired("default", "cat", number, digests[number - 1]) for number in (1, 2)]
        assert catalog.expire_versions(EVERYTHING, dry_run=True) == whole
        assert len(numbers(catalog)) == 6
        assert catalog.expire_versions(EVERYTHING, dry_run=False) == whole
        assert numbers(catalog) == [6, 5, 4, 3]
        assert expired(catalog) == []
        told = [e.number for e in catalog.events(0, None, 100) if e.kind is EventKind.VERSION_DELETED]
        assert told == [1, 2]

    def test_a_yanked_version_does_not_count_among_the_newest(self, catalog: Catalog) -> None:
        for seed in range(6):
            publish(catalog, "cat", seed)
        for number in (2, 6):
            catalog.yank_version(ref(f"cat@{number}"), "why")
        catalog.update_adapter(CAT, keep_last=2)
        assert expired(catalog) == ["default/cat@1", "default/cat@2", "default/cat@3"]
        assert numbers(catalog) == [6, 5, 4]

    def test_where_no_more_are_there_than_are_kept_none_goes(self, catalog: Catalog) -> None:
        for seed in range(3):
            publish(catalog, "cat", seed)
        catalog.yank_version(ref("cat@1"), "why")
        catalog.update_adapter(CAT, keep_last=3)
        assert expired(catalog) == []

    def test_what_an_alias_a_lease_or_a_child_needs_stays(self, catalog: Catalog) -> None:
        digests = [publish(catalog, "cat", seed) for seed in range(5)]
        catalog.set_alias(ref("cat@1"), "prod", None)
        catalog.renew_leases("gpu-1", [ref(f"cat@{digests[1]}")], timedelta(minutes=1))
        publish(catalog, "kitten", 9, parents=(digests[2],))
        catalog.update_adapter(CAT, keep_last=1)
        assert expired(catalog, dry_run=True) == expired(catalog) == ["default/cat@4"]
        catalog.delete_alias(CAT, "prod", None)
        catalog.renew_leases("gpu-1", [], timedelta(minutes=1))
        catalog.delete_adapter(adapter("kitten"), force=False)
        assert expired(catalog) == ["default/cat@1", "default/cat@2", "default/cat@3"]
        assert numbers(catalog) == [5]

    def test_a_parent_goes_one_pass_after_its_child(self, catalog: Catalog) -> None:
        parent = publish(catalog, "cat", 1)
        publish(catalog, "cat", 2, parents=(parent,))
        publish(catalog, "cat", 3)
        catalog.update_adapter(CAT, keep_last=1)
        assert [expired(catalog), expired(catalog), expired(catalog)] == [["default/cat@2"], ["default/cat@1"], []]

    def test_a_limit_holds_over_all_adapters(self, catalog: Catalog, small_batches: None) -> None:  # noqa: ARG002
        for name in ("dog", "cat", "team/ape"):
            for seed in range(6):
                publish(catalog, name, seed)
            catalog.update_adapter(adapter(name), keep_last=1)
        first = [f"default/cat@{n}" for n in range(1, 6)] + ["default/dog@1", "default/dog@2"]
        assert expired(catalog, limit=7, dry_run=True) == expired(catalog, limit=7) == first
        rest = ["default/dog@3", "default/dog@4", "default/dog@5", *(f"team/ape@{n}" for n in range(1, 6))]
        assert expired(catalog) == rest

    def test_an_adapter_that_comes_back_keeps_all(self, catalog: Catalog) -> None:
        publish(catalog)
        catalog.update_adapter(CAT, keep_last=1)
        catalog.delete_adapter(CAT, force=False)
        publish(catalog)
        assert catalog.get_adapter(CAT).keep_last == 0


class RemovalRules(Batches):
    def test_every_row_about_a_version_goes_with_it(self, catalog: Catalog) -> None:
        parent = publish(catalog, "mother", 1)
        publish(catalog, "cat", 2, parents=(parent,), modules=("layers.0.q", "layers.1.q", "layers.0.up"))
        assert (rows(catalog, VersionBlobRow), rows(catalog, VersionModuleRow), used_versions(catalog)) == (2, 3, 2)
        with catalog._database.read() as session:
            before = {row.digest: row.touched for row in session.scalars(select(BlobRow))}
        catalog.delete_version(ref("cat@1"), force=False)
        assert (rows(catalog, VersionBlobRow), rows(catalog, VersionModuleRow), used_versions(catalog)) == (1, 1, 1)
        assert rows(catalog, LineageRow) == 0
        let_go = a_version("cat", 2).manifest.files[0].digest
        with catalog._database.read() as session:
            after = {row.digest: row.touched for row in session.scalars(select(BlobRow))}
        assert {digest for digest, touched in after.items() if touched > before[digest]} == {let_go}

    def test_a_namespace_is_refused_more_versions_than_it_may_have(self, catalog: Catalog) -> None:
        publish(catalog, "team/cat", 1)
        with catalog._database.write() as session:
            session.get_one(NamespaceRow, "team").max_versions = 2
        publish(catalog, "team/dog", 2)
        assert catalog.create_version(a_version("team/dog", 2))[1] is False  # no new one
        with pytest.raises(QuotaExceeded) as refused:
            publish(catalog, "team/cat", 3)
        assert refused.value.metadata == {"limit": "2", "used": "2", "asked": "1"}
        publish(catalog, "cat", 3)
        catalog.delete_version(ref("team/cat@1"), force=False)
        publish(catalog, "team/cat", 3)

    def test_a_deletion_of_many_tells_all_of_them(self, catalog: Catalog, small_batches: None) -> None:  # noqa: ARG002
        digests = [publish(catalog, "cat", seed, alias=f"alias-{seed}") for seed in range(5)]
        gone = catalog.delete_adapter(CAT, force=False)
        assert gone.versions == tuple(digests)
        assert gone.aliases == tuple(f"alias-{seed}" for seed in range(5))
        assert (rows(catalog, VersionRow), rows(catalog, AliasRow), rows(catalog, MoveRow)) == (0, 0, 10)
        kinds = [event.kind for event in catalog.events(0, None, 100)][10:]
        assert kinds == [EventKind.ALIAS_DELETED] * 5 + [EventKind.VERSION_DELETED] * 5

    def test_nothing_of_a_half_deleted_adapter_is_seen(self, half_deleted: Catalog) -> None:
        left = a_version("cat", 4).manifest.digest
        for call in (
            lambda: half_deleted.get_adapter(CAT),
            lambda: half_deleted.resolve(ref(f"cat@{left}")),
            lambda: half_deleted.list_versions(CAT, Page()),
        ):
            with pytest.raises(AdapterNotFound):
                call()
        assert half_deleted.list_adapters(None, (), Page()).items == ()
        with pytest.raises(ParentNotFound):
            publish(half_deleted, "kitten", 9, parents=(left,))
        assert half_deleted.renew_leases("gpu-1", [ref(f"cat@{left}")], timedelta(minutes=1)).missing == (0,)

    def test_a_deletion_goes_on_where_it_was_left(self, half_deleted: Catalog) -> None:
        assert half_deleted.finish_deletions() == 1
        assert (rows(half_deleted, VersionRow), used_versions(half_deleted)) == (0, 0)
        told = [e.number for e in half_deleted.events(0, None, 100) if e.kind is EventKind.VERSION_DELETED]
        assert told == [1, 2, 3, 4, 5]
        assert half_deleted.finish_deletions() == 0

    def test_a_name_comes_back_without_what_was_left_of_it(self, half_deleted: Catalog) -> None:
        again = replace(a_version("cat", 4), description="new")
        assert half_deleted.being_deleted(CAT)
        with pytest.raises(Unavailable, match="free in a moment"):
            half_deleted.create_version(again)
        half_deleted.finish_deletion(CAT)
        assert not half_deleted.being_deleted(CAT)
        version, created = half_deleted.create_version(again)
        assert (version.number, version.aliases, created) == (6, (), True)
        assert (numbers(half_deleted), used_versions(half_deleted)) == ([6], 1)
        with pytest.raises(VersionNotFound):
            half_deleted.get_version(ref("cat@5"))
        assert half_deleted.finish_deletions() == 0
