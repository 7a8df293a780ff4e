"""What a catalogue promises about leases: whole sets, an end by themselves, and versions that stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from adapter_registry.domain.acting import Actor, Permission, Rights, acting
from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import Deletion, Page
from adapter_registry.store.keeping import LeaseRow
from lorry.errors import AdapterNotFound, InvalidPageToken, VersionInUse
from lorry.format.reference import Reference
from tests.suites.catalog_values import adapter, digest, everything, publish, ref

CAT = adapter("cat")
MINUTE = timedelta(minutes=1)


def exact(*names: tuple[str, str]) -> list[Reference]:
    return [ref(f"{name}@{digest}") for name, digest in names]


def held(catalog: Catalog, name: str = "cat") -> list[tuple[str, int]]:
    leases = everything(lambda page: catalog.list_leases(adapter(name), page), size=2)
    return [(lease.holder, lease.number) for lease in leases]


def let_expire(catalog: Catalog) -> None:
    with catalog._database.write() as session:
        session.execute(update(LeaseRow).values(expires=datetime.now(UTC) - MINUTE))


class LeaseRules:
    def test_a_holder_holds_what_it_says_in_place_of_what_it_said(self, catalog: Catalog) -> None:
        first, second = publish(catalog, "cat", 1), publish(catalog, "cat", 2)
        other = publish(catalog, "team/dog", 3)
        before = datetime.now(UTC)
        renewal = catalog.renew_leases("gpu-1", exact(("cat", first), ("team/dog", other)), MINUTE)
        assert timedelta(seconds=50) < renewal.expires - before < timedelta(seconds=70)
        assert (renewal.missing, renewal.yanked) == ((), ())
        assert (held(catalog), held(catalog, "team/dog")) == ([("gpu-1", 1)], [("gpu-1", 1)])
        catalog.renew_leases("gpu-1", exact(("cat", second), ("cat", second)), MINUTE)
        assert (held(catalog), held(catalog, "team/dog")) == ([("gpu-1", 2)], [])
        catalog.renew_leases("gpu-1", [], MINUTE)
        assert held(catalog) == []

    def test_a_lease_tells_holder_version_and_end(self, catalog: Catalog) -> None:
        only = publish(catalog)
        renewal = catalog.renew_leases("gpu-1", exact(("cat", only)), MINUTE)
        (lease,) = catalog.list_leases(CAT, Page()).items
        assert (lease.holder, lease.digest, lease.number, lease.expires) == ("gpu-1", only, 1, renewal.expires)

    def test_what_is_gone_and_what_was_yanked_is_told_by_its_place(self, catalog: Catalog) -> None:
        first, second = publish(catalog, "cat", 1), publish(catalog, "cat", 2)
        gone = publish(catalog, "dog", 3)
        catalog.yank_version(ref("cat@2"), "bites")
        catalog.delete_adapter(adapter("dog"), force=False)
        asked = exact(("dog", gone), ("cat", second), ("cat", gone), ("team/cat", first), ("cat", first))
        renewal = catalog.renew_leases("gpu-1", asked, MINUTE)
        assert (renewal.missing, renewal.yanked) == ((0, 2, 3), (1,))
        assert held(catalog) == [("gpu-1", 1), ("gpu-1", 2)]

    def test_thousands_of_references_are_one_call(self, catalog: Catalog) -> None:
        only = publish(catalog)
        asked = exact(*(("cat", digest(n)) for n in range(4_095)), ("cat", only))
        assert catalog.renew_leases("gpu-1", asked, MINUTE).missing == tuple(range(4_095))

    def test_leases_are_listed_by_holder_and_number(self, catalog: Catalog) -> None:
        digests = [publish(catalog, "cat", seed) for seed in range(3)]
        for holder in ("gpu-2", "gpu-10", "a/gpu"):
            catalog.renew_leases(holder, exact(*(("cat", d) for d in reversed(digests))), MINUTE)
        assert held(catalog) == [(holder, n) for holder in ("a/gpu", "gpu-10", "gpu-2") for n in (1, 2, 3)]
        token = catalog.list_leases(CAT, Page(1)).next_token
        publish(catalog, "dog")
        with pytest.raises(InvalidPageToken):
            catalog.list_leases(adapter("dog"), Page(1, token))
        with pytest.raises(AdapterNotFound):
            catalog.list_leases(adapter("nobody"), Page())

    def test_a_version_in_use_is_deleted_by_force_alone(self, catalog: Catalog) -> None:
        only = publish(catalog)
        for holder in ("gpu-2", "gpu-1"):
            catalog.renew_leases(holder, exact(("cat", only)), MINUTE)
        for call in (
            lambda: catalog.delete_version(ref("cat@1"), force=False),
            lambda: catalog.delete_adapter(CAT, force=False),
        ):
            with pytest.raises(VersionInUse, match="the lease of gpu-1, the lease of gpu-2"):
                call()
        assert catalog.delete_version(ref("cat@1"), force=True) == Deletion((only,), (), (), ("gpu-1", "gpu-2"))
        assert held(catalog) == []
        assert catalog.renew_leases("gpu-1", exact(("cat", only)), MINUTE).missing == (0,)

    def test_an_adapter_in_use_goes_by_force_with_its_leases(self, catalog: Catalog) -> None:
        only = publish(catalog)
        catalog.renew_leases("gpu-1", exact(("cat", only)), MINUTE)
        assert catalog.delete_adapter(CAT, force=True).leases == ("gpu-1",)
        publish(catalog)
        assert held(catalog) == []

    def test_a_lease_that_ran_out_holds_nothing_until_it_is_renewed(self, catalog: Catalog) -> None:
        only = publish(catalog)
        catalog.renew_leases("gpu-1", exact(("cat", only)), MINUTE)
        let_expire(catalog)
        assert held(catalog) == []
        catalog.renew_leases("gpu-1", exact(("cat", only)), MINUTE)
        assert held(catalog) == [("gpu-1", 1)]
        let_expire(catalog)
        assert catalog.delete_version(ref("cat@1"), force=False).leases == ()

    def test_children_that_the_caller_may_not_read_are_counted_and_not_named(self, catalog: Catalog) -> None:
        parent = publish(catalog, "cat", 1)
        hidden = [publish(catalog, f"secret/child-{seed}", seed, parents=(parent,)) for seed in (2, 3)]
        seen = publish(catalog, "kitten", 4, parents=(parent,))
        publish(catalog, "secret/kitten", 4, parents=(parent,))  # the same child, under a name that is hidden
        with acting(Actor("owner", Rights({"default": Permission.ADMIN}))):
            for call in (
                lambda: catalog.delete_version(ref("cat@1"), force=False),
                lambda: catalog.delete_adapter(CAT, force=False),
            ):
                with pytest.raises(VersionInUse, match=f"child {seen}, 2 children in namespaces") as refused:
                    call()
                assert not any(child in refused.value.message for child in hidden)
            assert catalog.delete_version(ref("cat@1"), force=True).orphans == (seen,)
