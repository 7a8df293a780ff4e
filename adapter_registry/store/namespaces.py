"""Namespaces in the store: limits, policy and what they hold.

Owns their rows, made on demand, and the revision that rises with each change by an operator. Does not
count: who adds or takes away blobs and versions raises and lowers what is used, in its transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapter_registry.domain.namespaces import NamespaceChange, NamespaceRecord
from adapter_registry.domain.paging import Cursor, page_size
from adapter_registry.domain.records import Listing, Page
from adapter_registry.store.audit import note
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import NamespaceRow
from adapter_registry.store.models import AdapterRow
from adapter_registry.store.reservations import uploading
from lorry.errors import RevisionConflict


def namespace_row(session: Session, name: str) -> NamespaceRow:
    """The row of a namespace; made, without limits, where there is none."""
    row = session.get(NamespaceRow, name)
    if row is None:
        row = NamespaceRow(
            name=name, max_bytes=0, max_versions=0, trusted_keys=[], revision=0, used_bytes=0, used_versions=0
        )
        session.add(row)
    return row


class NamespaceBook:
    """The part of the catalogue that keeps namespaces; see domain.namespaces.Namespaces."""

    _database: Database

    def get_namespace(self, name: str) -> NamespaceRecord:
        """See Namespaces."""
        with self._database.read() as session:
            row = session.get(NamespaceRow, name)
            return (
                _records(session, [row])[0]
                if row
                else NamespaceRecord(name, adapter_count=_counts(session, [name]).get(name, 0))
            )

    def list_namespaces(self, names: frozenset[str] | None, page: Page) -> Listing[NamespaceRecord]:
        """See Namespaces."""
        cursor = Cursor("namespaces", repr(names and sorted(names)), (str,))
        size = page_size(page.size)
        written = (NamespaceRow.revision > 0) | (NamespaceRow.used_bytes > 0) | (NamespaceRow.used_versions > 0)
        query = select(NamespaceRow).where(written).order_by(NamespaceRow.name).limit(size + 1)
        if names is not None:
            query = query.where(NamespaceRow.name.in_(names))
        if behind := cursor.position(page):
            query = query.where(NamespaceRow.name > behind[0])
        with self._database.read() as session:
            rows = session.scalars(query).all()
            items = _records(session, rows[:size])
        return cursor.listing(rows, page, lambda row: (row.name,), items)

    def update_namespace(self, change: NamespaceChange) -> NamespaceRecord:
        """See Namespaces."""
        with self._database.write() as session:
            row = namespace_row(session, change.name)
            if change.revision is not None and change.revision != row.revision:
                raise RevisionConflict(
                    f"namespace {change.name}: expected revision {change.revision}, it has {row.revision}",
                    revision=str(row.revision),
                )
            row.revision += 1
            note(session, namespace=change.name, name=change.name, detail=", ".join(_write(row, change)))
            session.flush()
            return _records(session, [row])[0]


def _write(row: NamespaceRow, change: NamespaceChange) -> list[str]:
    """Write what is to be written; what was, for the audit log."""
    told = []
    if change.max_bytes is not None:
        row.max_bytes = change.max_bytes
        told.append(f"max_bytes {change.max_bytes}")
    if change.max_versions is not None:
        row.max_versions = change.max_versions
        told.append(f"max_versions {change.max_versions}")
    if change.trusted_keys is not None:
        row.trusted_keys = list(change.trusted_keys)
        told.append(f"{len(change.trusted_keys)} trusted keys")
    return told


def _counts(session: Session, names: Sequence[str]) -> dict[str, int]:
    """Adapters by namespace."""
    query = select(AdapterRow.namespace, func.count()).where(~AdapterRow.deleted, AdapterRow.namespace.in_(names))
    return dict(session.execute(query.group_by(AdapterRow.namespace)).all())


def _records(session: Session, rows: Sequence[NamespaceRow]) -> list[NamespaceRecord]:
    names = [row.name for row in rows]
    counts, coming = _counts(session, names), uploading(session, names)
    return [
        NamespaceRecord(
            name=row.name,
            max_bytes=row.max_bytes,
            max_versions=row.max_versions,
            trusted_keys=tuple(row.trusted_keys),
            used_bytes=row.used_bytes,
            uploading_bytes=coming.get(row.name, 0),
            used_versions=row.used_versions,
            adapter_count=counts.get(row.name, 0),
            revision=row.revision,
        )
        for row in rows
    ]
