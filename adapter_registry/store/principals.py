"""Principals in the store.

Owns their rows, and which of them a hash or a certificate means. A look-up by hash needs no
constant-time comparison: who measures how far an index compares learns digits of sha256(secret), from
which no secret can be made. Does not judge whether somebody may do something.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from adapter_registry.domain.acting import Permission, Rights
from adapter_registry.domain.paging import Cursor, page_size
from adapter_registry.domain.principals import NewPrincipal, PrincipalRecord
from adapter_registry.domain.records import Listing, Page
from adapter_registry.store.audit import note
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import PrincipalRow
from lorry.errors import PrincipalConflict, PrincipalNotFound

_PAGES = Cursor("principals", "", (str,))


class Principals:
    """A PrincipalStore, and the part of the catalogue that keeps principals."""

    _database: Database

    def create_principal(self, new: NewPrincipal) -> PrincipalRecord:
        """See PrincipalStore."""
        with self._database.write() as session:
            _refuse_taken(session, new)
            row = PrincipalRow(
                name=new.name,
                secret_hash=new.secret_hash,
                certificate=new.certificate,
                scopes=[[namespace, int(granted)] for namespace, granted in sorted(new.rights.scopes.items())],
                delegate=new.delegate,
                created=datetime.now(UTC),
                expires=new.expires,
            )
            session.add(row)
            note(session, name=new.name, detail=_grants(new))
            return _record(row)

    def list_principals(self, page: Page) -> Listing[PrincipalRecord]:
        """See PrincipalStore."""
        behind, size = _PAGES.position(page), page_size(page.size)
        query = select(PrincipalRow).order_by(PrincipalRow.name).limit(size + 1)
        if behind is not None:
            query = query.where(PrincipalRow.name > behind[0])
        with self._database.read() as session:
            rows = session.scalars(query).all()
        return _PAGES.listing(rows, page, lambda row: (row.name,), [_record(row) for row in rows[:size]])

    def revoke_principal(self, name: str) -> PrincipalRecord:
        """See PrincipalStore."""
        with self._database.write() as session:
            row = session.scalar(select(PrincipalRow).where(PrincipalRow.name == name))
            if row is None:
                raise PrincipalNotFound(f"no principal {name!r}", principal=name)
            if row.revoked is None:
                row.revoked = datetime.now(UTC)
                row.secret_hash = row.certificate = None
                note(session, name=name)
            return _record(row)

    def principal(self, name: str) -> PrincipalRecord | None:
        """See PrincipalStore."""
        return self._principal_where(PrincipalRow.name == name)

    def principal_of_secret(self, secret_hash: str) -> PrincipalRecord | None:
        """See PrincipalStore."""
        return self._principal_where(PrincipalRow.secret_hash == secret_hash)

    def principal_of_certificate(self, certificate: str) -> PrincipalRecord | None:
        """See PrincipalStore."""
        return self._principal_where(PrincipalRow.certificate == certificate)

    def _principal_where(self, condition: ColumnElement[bool]) -> PrincipalRecord | None:
        with self._database.read() as session:
            row = session.scalar(select(PrincipalRow).where(condition))
        return None if row is None else _record(row)

    def saw_principal(self, name: str, moment: datetime) -> None:
        """See PrincipalStore."""
        older = or_(PrincipalRow.last_seen.is_(None), PrincipalRow.last_seen < moment)
        with self._database.write() as session:
            session.execute(update(PrincipalRow).where(PrincipalRow.name == name, older).values(last_seen=moment))


def _refuse_taken(session: Session, new: NewPrincipal) -> None:
    if session.scalar(select(PrincipalRow.id).where(PrincipalRow.name == new.name)) is not None:
        raise PrincipalConflict(
            f"there is a principal {new.name!r} already; names of revoked ones stay taken", principal=new.name
        )
    if new.certificate is None:
        return
    holder = session.scalar(select(PrincipalRow.name).where(PrincipalRow.certificate == new.certificate))
    if holder is not None:
        raise PrincipalConflict(f"the certificate {new.certificate!r} stands for {holder!r} already", principal=holder)


def _grants(new: NewPrincipal) -> str:
    scopes = (f"{namespace}={granted.name.lower()}" for namespace, granted in sorted(new.rights.scopes.items()))
    return " ".join([*scopes, *(["delegate"] if new.delegate else [])])


def _record(row: PrincipalRow) -> PrincipalRecord:
    return PrincipalRecord(
        name=row.name,
        rights=Rights({namespace: Permission(granted) for namespace, granted in row.scopes}),
        delegate=row.delegate,
        certificate=row.certificate,
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        last_seen=row.last_seen,
    )
