"""Retention in the store: versions that an adapter's `keep_last` lets go of.

Owns which those are: older than the newest `keep_last` that are not yanked, and needed by no alias, no
live lease and no child. Each is looked at again in the transaction that deletes it. Does not know when
retention is applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session, aliased

from adapter_registry.domain.records import Expired
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import LeaseRow
from adapter_registry.store.leases import now_of
from adapter_registry.store.models import AdapterRow, AliasRow, LineageRow, VersionRow
from adapter_registry.store.removal import BATCH, Going, remove

_Old = tuple[AdapterRow, Going]


class Retention:
    """The part of the catalogue that lets old versions go; see Catalog."""

    _database: Database

    def expire_versions(self, limit: int, *, dry_run: bool) -> list[Expired]:
        """See Catalog."""
        found = self._outgrown(limit)
        gone = found if dry_run else [old for batch in _batches(found) for old in self._let_go(batch)]
        return [Expired(adapter.namespace, adapter.name, going.number, going.digest) for adapter, going in gone]

    def _outgrown(self, limit: int) -> list[_Old]:
        # Whoever has no more than it keeps lets nothing go.
        crowded = ~AdapterRow.deleted & (AdapterRow.keep_last > 0) & (AdapterRow.version_count > AdapterRow.keep_last)
        found: list[_Old] = []
        with self._database.read() as session:
            query = select(AdapterRow).where(crowded).order_by(AdapterRow.namespace, AdapterRow.name)
            for adapter in session.scalars(query).all():
                room = limit - len(found)
                found += [(adapter, going) for going in (_old(session, adapter, room) if room else ())]
        return found

    def _let_go(self, batch: list[_Old]) -> list[_Old]:
        with self._database.write() as session:
            adapter = session.get_one(AdapterRow, batch[0][0].id)
            if adapter.deleted or not adapter.keep_last:
                return []
            same = VersionRow.id.in_([going.id for _, going in batch])
            still = _old(session, adapter, BATCH, same)
            remove(session, adapter, still)
            return [(adapter, going) for going in still]


def _batches(found: list[_Old]) -> Iterator[list[_Old]]:
    """Of one adapter each, and no more than one transaction takes."""
    for _, group in groupby(found, key=lambda old: old[0].id):
        whole = list(group)
        yield from (whole[start : start + BATCH] for start in range(0, len(whole), BATCH))


def _old(session: Session, adapter: AdapterRow, limit: int, *among: ColumnElement[bool]) -> list[Going]:
    """What retention lets go of, oldest first."""
    kept = select(VersionRow.number).where(VersionRow.adapter == adapter.id, VersionRow.yank_reason.is_(None))
    oldest_kept = session.scalar(kept.order_by(VersionRow.number.desc()).offset(adapter.keep_last - 1).limit(1))
    if oldest_kept is None:
        return []
    query = select(VersionRow.id, VersionRow.number, VersionRow.digest)
    query = query.where(VersionRow.adapter == adapter.id, VersionRow.number < oldest_kept, *among, *_unneeded(session))
    return [Going(*row) for row in session.execute(query.order_by(VersionRow.number).limit(limit))]


def _unneeded(session: Session) -> tuple[ColumnElement[bool], ...]:
    child, home = aliased(VersionRow), aliased(AdapterRow)
    born = (LineageRow.parent == VersionRow.digest) & (child.id == LineageRow.child)
    return (
        ~exists().where(AliasRow.version == VersionRow.id),
        ~exists().where(LeaseRow.version == VersionRow.id, LeaseRow.expires > now_of(session)),
        ~exists().where(born, home.id == child.adapter, ~home.deleted),
    )
