"""Room that uploads on their way take in a namespace's quota.

Owns the rows: one for each upload that a namespace with a limit of bytes has open, or broke off, so that
what lies in the store unfinished counts like what was finished. Does not know how far an upload is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from adapter_registry.domain.blobs import Reservation
from adapter_registry.domain.namespaces import over_quota
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import NamespaceRow, UploadRow

# Unfinished uploads of a namespace with a quota: each is a file of the store, however short, and a row that is
# summed at the next header (10,000 take 6 ms).
MAX_UNFINISHED = 10_000


class Reservations:
    """The part of the catalogue that counts uploads on their way; see domain.blobs.Ledger."""

    _database: Database

    def reserve(self, held: Reservation, size: int) -> None:
        """See Ledger."""
        with self._database.write() as session:
            row = session.get(UploadRow, held)
            if row is None:
                _require_place(session, held.namespace)
                row = UploadRow(**held._asdict(), size=0, touched=datetime.now(UTC))
                session.add(row)
            require_room(session, held.namespace, size - row.size)
            row.size, row.touched = size, datetime.now(UTC)

    def release(self, held: Reservation, kept: int) -> None:
        """See Ledger."""
        with self._database.write() as session:
            row = session.get(UploadRow, held)
            if row is None:
                return
            if kept:
                row.size, row.touched = min(kept, row.size), datetime.now(UTC)
            else:
                session.delete(row)

    def reserves(self, digest: str, namespace: str) -> bool:
        """See Ledger."""
        with self._database.read() as session:
            return session.scalar(select(exists().where(*_of(digest, namespace)))) or False

    def trim(self, digest: str, namespace: str, kept: int, running: Collection[int], began: datetime) -> None:
        """See Ledger."""
        idle = (*_of(digest, namespace), UploadRow.place.not_in(running), UploadRow.touched <= began)
        larger = (*idle, UploadRow.size > kept)
        with self._database.write() as session:
            session.execute(
                update(UploadRow).where(*larger).values(size=kept) if kept else delete(UploadRow).where(*larger)
            )


def fill(session: Session, held: Reservation) -> None:
    """Its bytes are stored and counted otherwise from here on."""
    session.execute(delete(UploadRow).where(*_of(held.digest, held.namespace), UploadRow.place == held.place))


def require_room(session: Session, namespace: str, asked: int) -> None:
    """Raise QuotaExceeded where the namespace may not have so many bytes more."""
    row = session.get(NamespaceRow, namespace)
    if row is None or not row.max_bytes or asked <= 0:
        return
    used = row.used_bytes + uploading(session, [namespace]).get(namespace, 0)
    if used + asked > row.max_bytes:
        raise over_quota(namespace, "bytes", limit=row.max_bytes, used=used, asked=asked)


def uploading(session: Session, namespaces: Sequence[str]) -> dict[str, int]:
    """Bytes of unfinished uploads by namespace."""
    sums = select(UploadRow.namespace, func.sum(UploadRow.size)).where(UploadRow.namespace.in_(namespaces))
    return {name: int(size) for name, size in session.execute(sums.group_by(UploadRow.namespace))}


def _of(digest: str, namespace: str) -> tuple[ColumnElement[bool], ...]:
    return UploadRow.namespace == namespace, UploadRow.digest == digest


def _require_place(session: Session, namespace: str) -> None:
    count = session.scalar(select(func.count()).where(UploadRow.namespace == namespace)) or 0
    if count >= MAX_UNFINISHED:
        raise over_quota(namespace, "unfinished uploads", limit=MAX_UNFINISHED, used=count, asked=1)
