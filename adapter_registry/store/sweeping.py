"""Garbage in the store: which blobs no version names, and how their rows go.

Owns the three steps of a blob's end as far as rows are concerned (see domain.garbage.Upkeep). Looking
for garbage reads; only what was found is judged again with the turn to write, so that publishing
waits for a few milliseconds however large the catalogue is. Does not know where bytes lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, insert, inspect, select, tuple_, update
from sqlalchemy.orm import Session

from adapter_registry.domain.garbage import Ages, StoredBlob, Turn
from adapter_registry.store.audit import note_each
from adapter_registry.store.database import Database
from adapter_registry.store.events import outlived
from adapter_registry.store.keeping import (
    AuditRow,
    BlobRow,
    ClaimRow,
    LeaseRow,
    NamespaceRow,
    UploadRow,
    VersionBlobRow,
)
from adapter_registry.store.leases import now_of
from adapter_registry.store.models import EventRow, Row
from adapter_registry.store.sweeping_turn import take_turn

# Without the blocks, which take more room than all else.
_BLOBS = select(BlobRow.digest, BlobRow.size, BlobRow.stored)
# No object of the session is any of the rows that are written.
_BLIND = {"synchronize_session": False}
_NAMED = exists().where(VersionBlobRow.digest == BlobRow.digest)


class Sweeping:
    """The part of the catalogue that garbage collection works on; see domain.garbage.Upkeep."""

    _database: Database

    def take_turn(self, work: str) -> Turn:
        """See Upkeep."""
        return take_turn(self._database.engine, work)

    def strays(self, found: Sequence[StoredBlob]) -> list[tuple[StoredBlob, bool]]:
        """See Upkeep."""
        with self._database.read() as session:
            unknown = _without_row(session, found)
            asked = VersionBlobRow.digest.in_([blob.digest for blob in unknown])
            named = set(session.scalars(select(VersionBlobRow.digest).where(asked)))
        return [(blob, blob.digest in named) for blob in unknown]

    def adopt(self, found: Sequence[StoredBlob]) -> int:
        """See Upkeep."""
        with self._database.write() as session:
            unknown = _without_row(session, found)
            rows = [
                {"digest": blob.digest, "size": blob.size, "stored": blob.since, "touched": blob.since}
                for blob in unknown
            ]
            if rows:
                session.execute(insert(BlobRow), [{**row, "condemned": False} for row in rows])
        return len(unknown)

    def condemned(self, after: str, limit: int) -> list[StoredBlob]:
        """See Upkeep."""
        doomed = _BLOBS.where(BlobRow.condemned, BlobRow.digest > after).order_by(BlobRow.digest)
        with self._database.read() as session:
            return [StoredBlob(*row) for row in session.execute(doomed.limit(limit))]

    def unnamed(self, before: datetime, after: str, limit: int) -> list[StoredBlob]:
        """See Upkeep."""
        garbage = _BLOBS.where(*_garbage(before), BlobRow.digest > after).order_by(BlobRow.digest)
        with self._database.read() as session:
            return [StoredBlob(*row) for row in session.execute(garbage.limit(limit))]

    def condemn(self, digests: Sequence[str], before: datetime) -> list[StoredBlob]:
        """See Upkeep."""
        with self._database.write() as session:
            still = _BLOBS.where(*_garbage(before), BlobRow.digest.in_(digests))
            doomed = [StoredBlob(*row) for row in session.execute(still)]
            condemned = BlobRow.digest.in_([blob.digest for blob in doomed])
            session.execute(update(BlobRow).where(condemned).values(condemned=True), execution_options=_BLIND)
            _drop_claims(session, doomed)
        return doomed

    def remove(self, digests: Sequence[str]) -> None:
        """See Upkeep."""
        with self._database.write() as session:
            gone = BlobRow.digest.in_(digests) & BlobRow.condemned
            removed = session.scalars(select(BlobRow.digest).where(gone)).all()
            session.execute(delete(BlobRow).where(gone), execution_options=_BLIND)
            note_each(session, removed, detail="no version named it")

    def held(self) -> tuple[int, int]:
        """See Upkeep."""
        sums = select(func.count(), func.coalesce(func.sum(BlobRow.size), 0)).where(~BlobRow.condemned)
        with self._database.read() as session:
            count, size = session.execute(sums).one()
        return int(count), int(size)

    def forgettable(self, ages: Ages) -> int:
        """See Upkeep."""
        with self._database.read() as session:
            counts = [select(func.count()).select_from(table).where(old) for table, old in _old(session, ages)]
            return sum(session.scalar(count) or 0 for count in counts)

    def forget(self, ages: Ages, limit: int) -> int:
        """See Upkeep."""
        count = 0
        with self._database.write() as session:
            for table, old in _old(session, ages):
                keys = inspect(table).primary_key
                some = [tuple(row) for row in session.execute(select(*keys).where(old).order_by(*keys).limit(limit))]
                if some:
                    session.execute(delete(table).where(tuple_(*keys).in_(some)), execution_options=_BLIND)
                count += len(some)
        return count


def _old(session: Session, ages: Ages) -> list[tuple[type[Row], ColumnElement[bool]]]:
    old: list[tuple[type[Row], ColumnElement[bool]]] = [
        (LeaseRow, LeaseRow.expires <= now_of(session)),
        (EventRow, outlived(ages.events)),
        (UploadRow, UploadRow.touched < ages.uploads),
    ]
    return [*old, (AuditRow, AuditRow.time < ages.audit)] if ages.audit else old


def _garbage(before: datetime) -> tuple[ColumnElement[bool], ...]:
    return ~BlobRow.condemned, BlobRow.touched < before, ~_NAMED


def _without_row(session: Session, found: Sequence[StoredBlob]) -> list[StoredBlob]:
    known = set(session.scalars(select(BlobRow.digest).where(BlobRow.digest.in_([blob.digest for blob in found]))))
    return [blob for blob in found if blob.digest not in known]


def _drop_claims(session: Session, doomed: Sequence[StoredBlob]) -> None:
    """Nobody's quota counts them any more."""
    sizes = {blob.digest: blob.size for blob in doomed}
    claimed = select(ClaimRow.namespace, ClaimRow.digest).where(ClaimRow.digest.in_(sizes))
    freed: Counter[str] = Counter()
    for namespace, digest in session.execute(claimed):
        freed[namespace] += sizes[digest]
    for namespace, size in freed.items():
        used = NamespaceRow.used_bytes - size
        session.execute(update(NamespaceRow).where(NamespaceRow.name == namespace).values(used_bytes=used))
    session.execute(delete(ClaimRow).where(ClaimRow.digest.in_(sizes)), execution_options=_BLIND)
