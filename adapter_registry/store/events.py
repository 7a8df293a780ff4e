"""The outbox: what happened, told in the transaction in which it happened.

Owns the order of events, and who is woken when there are new ones. A sequence is given while the
writer has its turn, so sequences rise in the order of commits and a reader that asks for higher ones
misses none. Does not know who reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select
from sqlalchemy.orm import Session

from adapter_registry.domain.catalog import Listening
from adapter_registry.domain.records import Event, EventKind
from adapter_registry.store.audit import note_each
from adapter_registry.store.database import Database
from adapter_registry.store.models import AdapterRow, EventRow
from adapter_registry.store.notify import announce, listen
from lorry.errors import ResumeTokenExpired


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
        announce(session)
    digests = [digest for digest, _ in subjects]
    note_each(session, digests, namespace=common["namespace"], name=common["name"], detail=text)


def outlived(before: datetime) -> ColumnElement[bool]:
    """Condition for the events that nobody needs to be kept: those in front of the first that was
    committed since then, but never the newest, which says how far the outbox came.

    In order of sequence they go first to last, so that what is kept has no holes.
    """
    young = select(EventRow.sequence).where(EventRow.committed >= before).order_by(EventRow.sequence).limit(1)
    newest = select(func.max(EventRow.sequence))
    return EventRow.sequence < func.coalesce(young.scalar_subquery(), newest.scalar_subquery())


class Events:
    """The part of the catalogue that reads the outbox; see Catalog."""

    _database: Database

    def events(self, after: int, namespaces: frozenset[str] | None, limit: int) -> list[Event]:
        """See Catalog."""
        query = select(EventRow).where(EventRow.sequence > after).order_by(EventRow.sequence).limit(limit)
        if namespaces is not None:
            query = query.where(EventRow.namespace.in_(namespaces))
        with self._database.read() as session:
            _refuse_forgotten(session, after)
            return [_record(row) for row in session.scalars(query)]

    def last_event(self) -> int:
        """See Catalog."""
        with self._database.read() as session:
            return session.scalar(select(func.max(EventRow.sequence))) or 0

    def listen(self, wake: Callable[[], None]) -> Listening:
        """See Catalog."""
        return listen(self._database, wake)


def _refuse_forgotten(session: Session, after: int) -> None:
    """Raise ResumeTokenExpired where events behind this one are not kept any more; 0 asks for what there is."""
    oldest = session.scalar(select(func.min(EventRow.sequence))) or 0
    if 0 < after < oldest - 1:
        raise ResumeTokenExpired(
            f"expected a resume token of event {oldest - 1} or later, got {after}: read the state again, then watch "
            "from now on",
            oldest=str(oldest),
        )


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
