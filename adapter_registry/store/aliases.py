"""Aliases in the store: where they point, and every move that they made.

Owns revisions: they rise by one with each move, deletions too, and never begin again, so a
compare-and-swap cannot take an alias that was deleted and made anew for the one it saw.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from adapter_registry.domain.paging import Cursor, page_size
from adapter_registry.domain.records import AliasRecord, EventKind, Listing, Page
from adapter_registry.store.database import Database
from adapter_registry.store.events import tell
from adapter_registry.store.models import AdapterRow, AliasRow, MoveRow, VersionRow
from adapter_registry.store.reading import adapter_row, locate, name_of
from lorry.errors import AliasNotFound, NoEarlierVersion, QuotaExceeded, RevisionConflict, VersionYanked
from lorry.format.reference import AdapterName, Reference

# Of an adapter, in whose description they all are: some 40 KB of it. Stages of a rollout, by cluster and team.
MAX_ALIASES = 256


def point(
    session: Session, adapter: AdapterRow, version: VersionRow, alias: str, expected_revision: int | None
) -> AliasRow:
    """Point an alias to a version; one that points there already is left as it is.

    Raises RevisionConflict, VersionYanked, QuotaExceeded.
    """
    row = session.get(AliasRow, (adapter.id, alias))
    _compare(adapter, alias, row.revision if row else 0, expected_revision)
    refuse_yanked(name_of(adapter), version.number, version.yank_reason)
    if row is not None and row.version == version.id:
        return row
    if row is None:
        _check_room(session, adapter)
        row = AliasRow(adapter=adapter.id, alias=alias)
    row.revision, row.updated = _move(session, adapter, alias, version)
    row.version = version.id
    session.add(row)
    tell(session, EventKind.ALIAS_MOVED, adapter, version.digest, number=row.revision, text=alias)
    return row


def _check_room(session: Session, adapter: AdapterRow) -> None:
    aliases = session.scalar(select(func.count()).select_from(AliasRow).where(AliasRow.adapter == adapter.id)) or 0
    if aliases >= MAX_ALIASES:
        raise QuotaExceeded(f"{name_of(adapter)}: expected at most {MAX_ALIASES} aliases, it has {aliases}")


def drop(session: Session, adapter: AdapterRow, alias: str, digest: str) -> None:
    """Delete an alias that points to `digest`; its history stays and tells it."""
    session.execute(delete(AliasRow).where(AliasRow.adapter == adapter.id, AliasRow.alias == alias))
    revision, _ = _move(session, adapter, alias, None)
    tell(session, EventKind.ALIAS_DELETED, adapter, digest, number=revision, text=alias)


def refuse_yanked(adapter: AdapterName, number: int, reason: str | None) -> None:
    """Raise VersionYanked where there is a reason for which the version was yanked."""
    if reason is not None:
        raise VersionYanked(f"{adapter}@{number} was yanked: {reason}", yank_reason=reason)


def _compare(adapter: AdapterRow, alias: str, revision: int, expected: int | None) -> None:
    if expected is not None and revision != expected:
        raise RevisionConflict(
            f"alias {name_of(adapter)}:{alias}: expected revision {expected}, it has {revision}", revision=str(revision)
        )


def _move(session: Session, adapter: AdapterRow, alias: str, version: VersionRow | None) -> tuple[int, datetime]:
    """Write a move into the history; answers its revision and its time."""
    last = select(func.max(MoveRow.revision)).where(MoveRow.adapter == adapter.id, MoveRow.alias == alias)
    move = MoveRow(
        adapter=adapter.id,
        alias=alias,
        revision=(session.scalar(last) or 0) + 1,
        digest=version.digest if version else None,
        number=version.number if version else 0,
        updated=datetime.now(UTC),
    )
    session.add(move)
    return move.revision, move.updated


class Aliases:
    """The part of the catalogue that keeps aliases; see Catalog."""

    _database: Database

    def set_alias(self, reference: Reference, alias: str, expected_revision: int | None) -> AliasRecord:
        """See Catalog."""
        with self._database.write() as session:
            adapter, version = locate(session, reference)
            row = point(session, adapter, version, alias, expected_revision)
            return AliasRecord(alias, version.digest, version.number, row.revision, row.updated)

    def rollback_alias(self, adapter: AdapterName, alias: str, expected_revision: int | None) -> AliasRecord:
        """See Catalog."""
        with self._database.write() as session:
            owner, _ = locate(session, Reference(adapter, alias=alias))
            row = session.get_one(AliasRow, (owner.id, alias))
            _compare(owner, alias, row.revision, expected_revision)
            # An alias that points there already does not move, so the move before is always another version's.
            before = session.get(MoveRow, (owner.id, alias, row.revision - 1))
            if before is None or before.digest is None:
                raise NoEarlierVersion(f"alias {adapter}:{alias} points to where it pointed when it was made")
            _, version = locate(session, Reference(adapter, digest=before.digest))
            row = point(session, owner, version, alias, None)
            return AliasRecord(alias, version.digest, version.number, row.revision, row.updated)

    def delete_alias(self, adapter: AdapterName, alias: str, expected_revision: int | None) -> None:
        """See Catalog."""
        with self._database.write() as session:
            owner, version = locate(session, Reference(adapter, alias=alias))
            row = session.get_one(AliasRow, (owner.id, alias))
            _compare(owner, alias, row.revision, expected_revision)
            drop(session, owner, alias, version.digest)

    def list_aliases(self, adapter: AdapterName, page: Page) -> Listing[AliasRecord]:
        """See Catalog."""
        cursor = Cursor("aliases", str(adapter), (str,))
        size = page_size(page.size)
        behind = cursor.position(page)
        query = select(AliasRow, VersionRow).join(VersionRow, VersionRow.id == AliasRow.version)
        with self._database.read() as session:
            query = query.where(AliasRow.adapter == adapter_row(session, adapter).id)
            if behind:
                query = query.where(AliasRow.alias > behind[0])
            rows = session.execute(query.order_by(AliasRow.alias).limit(size + 1)).all()
        items = [AliasRecord(a.alias, v.digest, v.number, a.revision, a.updated) for a, v in rows[:size]]
        return cursor.listing(rows, page, lambda row: (row[0].alias,), items)

    def alias_history(self, adapter: AdapterName, alias: str, page: Page) -> Listing[AliasRecord]:
        """See Catalog."""
        cursor = Cursor("moves", f"{adapter}:{alias}", (int,))
        size = page_size(page.size)
        behind = cursor.position(page)
        with self._database.read() as session:
            moves = select(MoveRow).where(MoveRow.adapter == adapter_row(session, adapter).id, MoveRow.alias == alias)
            query = moves.where(MoveRow.revision < behind[0]) if behind else moves
            rows = session.scalars(query.order_by(MoveRow.revision.desc()).limit(size + 1)).all()
        if not rows and not behind:
            raise AliasNotFound(f"adapter {adapter} never had an alias {alias!r}", adapter=str(adapter))
        items = [AliasRecord(m.alias, m.digest, m.number, m.revision, m.updated) for m in rows[:size]]
        return cursor.listing(rows, page, lambda row: (row.revision,), items)
