"""The audit log in the store: who did what to which digest, in the transaction that did it.

Owns how an entry is written and found again. Does not know what is worth an entry: every event of
the outbox is one, other writers call `note`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Select, insert, select
from sqlalchemy.orm import Session

from adapter_registry.domain.acting import actor
from adapter_registry.domain.paging import Cursor, page_size
from adapter_registry.domain.principals import AuditQuery, AuditRecord
from adapter_registry.domain.records import Listing, Page
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import AuditRow


def note(session: Session, *, namespace: str = "", name: str = "", digest: str = "", detail: str = "") -> None:
    """Write what the acting principal does."""
    note_each(session, [digest], namespace=namespace, name=name, detail=detail)


def note_each(
    session: Session, digests: Sequence[str], *, namespace: str = "", name: str = "", detail: str = ""
) -> None:
    """Write it once for each digest, in one go."""
    who = actor()
    common = {
        "time": datetime.now(UTC),
        "principal": who.principal,
        "via": who.via,
        "action": who.action,
        "namespace": namespace,
        "name": name,
        "detail": detail,
        "request_id": who.request_id,
    }
    if digests:
        session.execute(insert(AuditRow), [{**common, "digest": digest} for digest in digests])


class Audit:
    """An AuditLog, and the part of the catalogue that reads the audit log."""

    _database: Database

    def audit_entries(self, query: AuditQuery, page: Page) -> Listing[AuditRecord]:
        """See AuditLog."""
        cursor = Cursor("audit", _scope(query), (int,))
        behind, size = cursor.position(page), page_size(page.size)
        wanted = _matching(query).order_by(AuditRow.id.desc()).limit(size + 1)
        if behind is not None:
            wanted = wanted.where(AuditRow.id < behind[0])
        with self._database.read() as session:
            rows = session.scalars(wanted).all()
        return cursor.listing(rows, page, lambda row: (row.id,), [_record(row) for row in rows[:size]])


def _scope(query: AuditQuery) -> str:
    namespaces = None if query.namespaces is None else sorted(query.namespaces)
    return repr((namespaces, query.principal, query.digest, query.action, query.start, query.end))


def _matching(query: AuditQuery) -> Select[AuditRow]:
    wanted = select(AuditRow)
    if query.namespaces is not None:
        wanted = wanted.where(AuditRow.namespace.in_(sorted(query.namespaces)))
    if query.principal:
        wanted = wanted.where(AuditRow.principal == query.principal)
    if query.digest:
        wanted = wanted.where(AuditRow.digest == query.digest)
    if query.action:
        wanted = wanted.where(AuditRow.action == query.action)
    if query.start is not None:
        wanted = wanted.where(AuditRow.time >= query.start)
    return wanted if query.end is None else wanted.where(AuditRow.time < query.end)


def _record(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        time=row.time,
        principal=row.principal,
        via=row.via,
        action=row.action,
        namespace=row.namespace,
        name=row.name,
        digest=row.digest,
        detail=row.detail,
        request_id=row.request_id,
    )
