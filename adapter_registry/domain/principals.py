"""Principals and the audit log as values, and the stores that keep them as Protocols.

Owns what a principal is, from when on it has no rights any more, and what an entry of the audit log
says. Does not know tokens' secrets, only their hashes; nor SQL, nor the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from adapter_registry.domain.acting import Rights
from adapter_registry.domain.records import Listing, Page


@dataclass(frozen=True, slots=True)
class NewPrincipal:
    """A principal about to be made. secret_hash: sha256 of a token in hex, None for a certificate's holder.
    certificate: the common name that stands for it, None for a token. expires: None for never.
    """

    name: str
    rights: Rights
    delegate: bool = False
    secret_hash: str | None = None
    certificate: str | None = None
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class PrincipalRecord:
    """Somebody who may do something. delegate: it may act for its own callers."""

    name: str
    rights: Rights
    delegate: bool
    certificate: str | None
    created: datetime | None
    expires: datetime | None
    revoked: datetime | None
    last_seen: datetime | None
    anonymous: bool = False

    def active(self, now: datetime) -> bool:
        """Whether it has its rights at that moment."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class PrincipalStore(Protocol):
    """Keeps principals. Every method may raise StorageUnavailable."""

    def create_principal(self, new: NewPrincipal) -> PrincipalRecord:
        """Raises PrincipalConflict where the name is or was another's, or the certificate is."""

    def list_principals(self, page: Page) -> Listing[PrincipalRecord]:
        """By name. Raises InvalidPageToken."""

    def revoke_principal(self, name: str) -> PrincipalRecord:
        """Take every right and forget what it showed: its name stays taken, its certificate may be given to
        somebody else. Idempotent. Raises PrincipalNotFound.
        """

    def principal(self, name: str) -> PrincipalRecord | None:
        """The one of that name, revoked or not."""

    def principal_of_secret(self, secret_hash: str) -> PrincipalRecord | None:
        """The one whose token has that hash."""

    def principal_of_certificate(self, certificate: str) -> PrincipalRecord | None:
        """The one that the common name stands for."""

    def saw_principal(self, name: str, moment: datetime) -> None:
        """Note when it was last seen; an older moment than the noted one changes nothing."""


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries are wanted; '' and None stand for all. namespaces: None means every namespace, and
    what belongs to none.
    """

    namespaces: frozenset[str] | None = None
    principal: str = ""
    digest: str = ""
    action: str = ""
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One thing that was done; see AuditEntry of the contract."""

    time: datetime
    principal: str
    via: str
    action: str
    namespace: str
    name: str
    digest: str
    detail: str
    request_id: str


class AuditLog(Protocol):
    """Reads the audit log; writing is the business of every transaction that does something."""

    def audit_entries(self, query: AuditQuery, page: Page) -> Listing[AuditRecord]:
        """Newest first. Raises InvalidPageToken, StorageUnavailable."""
