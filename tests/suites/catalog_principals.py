from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from adapter_registry.domain.acting import Actor, Permission, Rights, acting
from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.principals import AuditQuery, NewPrincipal
from adapter_registry.domain.records import Page
from lorry.errors import PrincipalConflict, PrincipalNotFound
from lorry.format.reference import AdapterName
from tests.suites.catalog_values import publish

RIGHTS = Rights({"team": Permission.PUSH, "*": Permission.READ})
NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def token(name: str, secret_hash: str = "") -> NewPrincipal:
    return NewPrincipal(name, RIGHTS, secret_hash=secret_hash or f"hash of {name}")


def certificate(name: str, common_name: str) -> NewPrincipal:
    return NewPrincipal(name, RIGHTS, delegate=True, certificate=common_name, expires=NOW)


class PrincipalRules:
    """Principals and the audit log."""

    def test_a_principal_is_found_by_what_it_shows_and_by_its_name(self, catalog: Catalog) -> None:
        made = catalog.create_principal(token("ann"))
        worker = catalog.create_principal(certificate("gpu-1", "gpu-1.example"))
        assert catalog.principal_of_secret("hash of ann") == made
        assert catalog.principal("ann") == made
        assert catalog.principal_of_certificate("gpu-1.example") == worker
        assert (worker.rights, worker.delegate, worker.expires, worker.last_seen) == (RIGHTS, True, NOW, None)
        assert catalog.principal_of_secret("gpu-1.example") is None
        assert catalog.principal_of_certificate("hash of ann") is None
        assert catalog.principal("bob") is None

    def test_a_name_and_a_certificate_are_one_principals_alone(self, catalog: Catalog) -> None:
        catalog.create_principal(certificate("gpu-1", "gpu-1.example"))
        with pytest.raises(PrincipalConflict):
            catalog.create_principal(token("gpu-1"))
        with pytest.raises(PrincipalConflict):
            catalog.create_principal(certificate("gpu-2", "gpu-1.example"))

    def test_one_of_many_that_want_a_name_gets_it(self, catalog: Catalog) -> None:
        def attempt(number: int) -> bool:
            try:
                catalog.create_principal(token("ann", f"hash {number}"))
            except PrincipalConflict:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(attempt, range(16))) == 1

    def test_a_revoked_one_stays_on_the_list_and_keeps_its_name(self, catalog: Catalog) -> None:
        catalog.create_principal(token("ann"))
        revoked = catalog.revoke_principal("ann")
        assert revoked.revoked is not None
        assert catalog.revoke_principal("ann") == revoked
        assert not revoked.active(datetime.now(UTC))
        assert catalog.list_principals(Page()).items == (revoked,)
        with pytest.raises(PrincipalConflict):
            catalog.create_principal(token("ann", "another"))
        with pytest.raises(PrincipalNotFound):
            catalog.revoke_principal("bob")

    def test_what_a_revoked_one_showed_is_forgotten(self, catalog: Catalog) -> None:
        for new in (token("ann"), certificate("gpu-1", "gpu-1.example")):
            catalog.create_principal(new)
            catalog.revoke_principal(new.name)
        assert catalog.principal_of_secret("hash of ann") is None
        assert catalog.principal_of_certificate("gpu-1.example") is None
        successor = catalog.create_principal(certificate("gpu-2", "gpu-1.example"))
        assert catalog.principal_of_certificate("gpu-1.example") == successor

    def test_pages_of_principals_follow_the_alphabet(self, catalog: Catalog) -> None:
        for name in ("d", "a", "c", "b"):
            catalog.create_principal(token(name))
        first = catalog.list_principals(Page(3))
        second = catalog.list_principals(Page(3, first.next_token))
        assert [p.name for p in (*first.items, *second.items)] == ["a", "b", "c", "d"]
        assert second.next_token == ""

    def test_when_it_was_seen_only_moves_on(self, catalog: Catalog) -> None:
        catalog.create_principal(token("ann"))
        for moment in (NOW, NOW - timedelta(hours=1), NOW + timedelta(minutes=1)):
            catalog.saw_principal("ann", moment)
        found = catalog.principal("ann")
        assert found is not None
        assert found.last_seen == NOW + timedelta(minutes=1)

    def test_the_log_says_who_did_what_newest_first(self, catalog: Catalog) -> None:
        ann = Actor("ann", action="CreateVersion", via="gpu-1", request_id="r-1")
        with acting(ann):
            digest = publish(catalog, "team/a")
        with acting(Actor("bob", action="UpdateAdapter")):
            catalog.update_adapter(AdapterName("team", "a"), description="new", labels=None, revision=None)
        with acting(Actor("eve", action="CreatePrincipal")):
            catalog.create_principal(token("fox"))
        entries = catalog.audit_entries(AuditQuery(), Page()).items
        told = [(e.principal, e.via, e.action, e.namespace, e.name, e.digest) for e in entries[:3]]
        assert told == [
            ("eve", "", "CreatePrincipal", "", "fox", ""),
            ("bob", "", "UpdateAdapter", "team", "a", ""),
            ("ann", "gpu-1", "CreateVersion", "team", "a", digest),
        ]
        assert (entries[2].request_id, entries[0].detail) == ("r-1", "*=read team=push")

    def test_the_log_is_read_through_filters_and_in_pages(self, catalog: Catalog) -> None:
        for number in range(4):
            with acting(Actor("ann" if number % 2 else "bob", action="CreatePrincipal")):
                catalog.create_principal(token(f"p{number}"))
        with acting(Actor("ann", action="CreateVersion")):
            digest = publish(catalog, "team/a")
        cases = {
            AuditQuery(principal="bob"): 2,
            AuditQuery(principal="ann", action="CreatePrincipal"): 2,
            AuditQuery(digest=digest): 1,
            AuditQuery(namespaces=frozenset({"team"})): 1,
            AuditQuery(namespaces=frozenset({"other"})): 0,
            AuditQuery(namespaces=frozenset()): 0,
            AuditQuery(start=datetime.now(UTC) + timedelta(hours=1)): 0,
            AuditQuery(end=NOW - timedelta(days=10_000)): 0,
            AuditQuery(action="CreatePrincipal", start=NOW - timedelta(days=10_000)): 4,
        }
        assert {query: len(catalog.audit_entries(query, Page()).items) for query in cases} == cases
        query = AuditQuery(action="CreatePrincipal")
        first = catalog.audit_entries(query, Page(3))
        second = catalog.audit_entries(query, Page(3, first.next_token))
        assert [e.name for e in (*first.items, *second.items)] == ["p3", "p2", "p1", "p0"]
