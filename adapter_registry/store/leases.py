"""Leases in the store: which versions are in use, by whom, until when.

Owns the set that a holder has, replaced as a whole, and whose clock ends it: the database's, where it
is a server's own, so that replicas agree; SQLite has no other than ours. Does not know who holds, or
what a lease keeps from happening.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, insert, select, tuple_
from sqlalchemy.orm import Session

from adapter_registry.domain.paging import Cursor, page_size
from adapter_registry.domain.records import LeaseRecord, Listing, Page, Renewal
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import LeaseRow
from adapter_registry.store.models import AdapterRow, UtcTime, VersionRow
from adapter_registry.store.reading import adapter_row
from lorry.format.reference import AdapterName, Reference

# References that one query looks up: three values each, far below what databases take in a statement.
_AT_ONCE = 1_000

# Namespace, name and digest.
_Key = tuple[str, str, str]


def now_of(session: Session) -> datetime:
    """The present moment by the clock that leases go by."""
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp(type_=UtcTime()))).one()
    return datetime.now(UTC)


class Leases:
    """The part of the catalogue that keeps leases; see Catalog."""

    _database: Database

    def renew_leases(self, holder: str, references: Sequence[Reference], ttl: timedelta) -> Renewal:
        """See Catalog."""
        keys = [(r.adapter.namespace, r.adapter.name, r.digest or "") for r in references]
        with self._database.write() as session:
            expires = now_of(session) + ttl
            found = _found(session, sorted(set(keys)))
            session.execute(delete(LeaseRow).where(LeaseRow.holder == holder))
            held = [{"holder": holder, "version": version, "expires": expires} for version, _ in found.values()]
            if held:
                session.execute(insert(LeaseRow), held)
        return Renewal(
            expires=expires,
            missing=tuple(index for index, key in enumerate(keys) if key not in found),
            yanked=tuple(index for index, key in enumerate(keys) if key in found and found[key][1]),
        )

    def list_leases(self, adapter: AdapterName, page: Page) -> Listing[LeaseRecord]:
        """See Catalog."""
        cursor = Cursor("leases", str(adapter), (str, int))
        size = page_size(page.size)
        behind = cursor.position(page)
        query = select(LeaseRow.holder, VersionRow.digest, VersionRow.number, LeaseRow.expires)
        query = query.join(VersionRow, VersionRow.id == LeaseRow.version)
        with self._database.read() as session:
            owner = adapter_row(session, adapter)
            query = query.where(VersionRow.adapter == owner.id, LeaseRow.expires > now_of(session))
            if behind:
                query = query.where(tuple_(LeaseRow.holder, VersionRow.number) > tuple_(*behind))
            rows = session.execute(query.order_by(LeaseRow.holder, VersionRow.number).limit(size + 1)).all()
        items = [LeaseRecord(*row) for row in rows[:size]]
        return cursor.listing(rows, page, lambda row: (row.holder, row.number), items)


def _found(session: Session, keys: Sequence[_Key]) -> dict[_Key, tuple[int, bool]]:
    """Id of each version that is there, and whether it was yanked."""
    return {key: meaning for some in _chunks(keys) for key, meaning in _look_up(session, some)}


def _chunks(keys: Sequence[_Key]) -> Iterator[Sequence[_Key]]:
    return (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))


def _look_up(session: Session, keys: Sequence[_Key]) -> Iterator[tuple[_Key, tuple[int, bool]]]:
    namespaces, names, digests = (set(part) for part in zip(*keys, strict=True))
    columns = (AdapterRow.namespace, AdapterRow.name, VersionRow.digest, VersionRow.id, VersionRow.yank_reason)
    query = select(*columns).join(VersionRow, VersionRow.adapter == AdapterRow.id).where(~AdapterRow.deleted)
    query = query.where(AdapterRow.namespace.in_(namespaces), AdapterRow.name.in_(names))
    wanted = set(keys)
    for namespace, name, digest, version, reason in session.execute(query.where(VersionRow.digest.in_(digests))):
        if (namespace, name, digest) in wanted:
            yield (namespace, name, digest), (version, reason is not None)
