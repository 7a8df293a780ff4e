"""The outbox: what happened, told in the transaction in which it happened.

Owns the order of events. A sequence is given while the writer has its turn, so sequences rise in
the order of commits and a reader that asks for higher ones misses none. Does not know who reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from adapter_registry.domain.records import Event, EventKind
from adapter_registry.store.audit import note_each
from adapter_registry.store.database import Database
from adapter_registry.store.models import AdapterRow, EventRow


def tell(
    session: Session, kind: EventKind, adapter: AdapterRow | None, digest: str, *, number: int = 0, text: str = ""
) -> None:
    """Write an event behind those that were told before. `adapter` is None for a base model."""
    tell_each(session, kind, adapter, [(digest, number)], text)


def tell_each(
    session: Session, kind: EventKind, adapter: AdapterRow | None, subjects: Sequence[tuple[str, int]], text: str = ""
) -> None:
    """Write an event for each (digest, number), in this order and in one go; each is audited too."""
    common: dict[str, Any] = {
        "kind": kind.value,
        "namespace": adapter.namespace if adapter else "",
        "name": adapter.name if adapter else "",
        "text": text,
        "committed": datetime.now(UTC),
    }
    if subjects:
        session.execute(insert(EventRow), [{**common, "digest": digest, "number": n} for digest, n in subjects])
    digests = [digest for digest, _ in subjects]
    note_each(session, digests, namespace=common["namespace"], name=common["name"], detail=text)


class Events:
    """The part of the catalogue that reads the outbox; see Catalog."""

    _database: Database

    def events(self, after: int, namespace: str | None, limit: int) -> list[Event]:
        """See Catalog."""
        query = select(EventRow).where(EventRow.sequence > after).order_by(EventRow.sequence).limit(limit)
        if namespace is not None:
            query = query.where(EventRow.namespace == namespace)
        with self._database.read() as session:
            return [_record(row) for row in session.scalars(query)]

    def last_event(self) -> int:
        """See Catalog."""
        with self._database.read() as session:
            return session.scalar(select(func.max(EventRow.sequence))) or 0


def _record(row: EventRow) -> Event:
    return Event(
        sequence=row.sequence,
        kind=EventKind(row.kind),
        namespace=row.namespace,
        name=row.name,
        digest=row.digest,
        number=row.number,
        text=row.text,
        committed=row.committed,
    )
