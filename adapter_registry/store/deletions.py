"""Deletions in the store: versions and whole adapters, with what they take along.

Owns when a version is in use: while an alias names it, or a child's lineage does and no other
adapter holds the same version. Does not delete blobs; nothing here knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.orm import Session, aliased

from adapter_registry.domain.records import Deletion, EventKind
from adapter_registry.store.aliases import drop
from adapter_registry.store.database import Database
from adapter_registry.store.events import tell_each
from adapter_registry.store.models import AdapterRow, AliasRow, LineageRow, VersionRow
from adapter_registry.store.reading import adapter_row, locate, name_of
from adapter_registry.store.versions import renew_latest, write_labels
from lorry.errors import VersionInUse
from lorry.format.reference import AdapterName, Reference

# Names that a refusal tells; the rest is a number. They share 8 KB of trailers with all else.
_TOLD = 20


class Deletions:
    """The part of the catalogue that deletes; see Catalog."""

    _database: Database

    def delete_version(self, reference: Reference, *, force: bool) -> Deletion:
        """See Catalog."""
        with self._database.write() as session:
            adapter, version = locate(session, reference)
            doomed = _Doomed(lambda row: row.id == version.id)
            aliases, orphans = doomed.aliases(session), doomed.orphans(session)
            if not force:
                _refuse_used(f"{name_of(adapter)}@{version.number}", [alias for alias, _ in aliases], orphans)
            return _remove(session, adapter, doomed, aliases, orphans)

    def delete_adapter(self, adapter: AdapterName, *, force: bool) -> Deletion:
        """See Catalog."""
        with self._database.write() as session:
            row = adapter_row(session, adapter)
            doomed = _Doomed(lambda version: version.adapter == row.id)
            orphans = doomed.orphans(session)
            if not force:
                _refuse_used(str(adapter), [], orphans)
            deletion = _remove(session, row, doomed, doomed.aliases(session), orphans)
            row.deleted = True
            row.description = ""
            write_labels(session, row, {})
            return deletion


class _Doomed:
    """The versions that are to go, as a condition on any alias of their table."""

    def __init__(self, condition: Callable[[type[VersionRow]], ColumnElement[bool]]) -> None:
        self.condition = condition

    def aliases(self, session: Session) -> list[tuple[str, str]]:
        """(alias, digest) of the aliases that name one of them, by alias."""
        query = select(AliasRow.alias, VersionRow.digest).join(VersionRow, VersionRow.id == AliasRow.version)
        rows = session.execute(query.where(self.condition(VersionRow)).order_by(AliasRow.alias))
        return [(alias, digest) for alias, digest in rows]

    def orphans(self, session: Session) -> list[str]:
        """Digests of children that stay while the last version of a parent's digest goes."""
        parent, child, twin = aliased(VersionRow), aliased(VersionRow), aliased(VersionRow)
        stays = exists().where(twin.digest == parent.digest, ~self.condition(twin))
        query = select(child.digest).distinct().join(LineageRow, LineageRow.child == child.id)
        query = query.join(parent, parent.digest == LineageRow.parent)
        query = query.where(self.condition(parent), ~self.condition(child), ~stays)
        return list(session.scalars(query.order_by(child.digest)))


def _refuse_used(subject: str, aliases: Sequence[str], orphans: Sequence[str]) -> None:
    users = [f"alias {alias}" for alias in aliases] + [f"child {digest}" for digest in orphans]
    if users:
        more = f" and {len(users) - _TOLD} more" if len(users) > _TOLD else ""
        raise VersionInUse(f"{subject} is named by {', '.join(users[:_TOLD])}{more}")


def _remove(
    session: Session, adapter: AdapterRow, doomed: _Doomed, aliases: list[tuple[str, str]], orphans: list[str]
) -> Deletion:
    for alias, digest in aliases:
        drop(session, adapter, alias, digest)
    rows = select(VersionRow.digest, VersionRow.number).where(doomed.condition(VersionRow))
    versions = session.execute(rows.order_by(VersionRow.number)).all()
    children = LineageRow.child.in_(select(VersionRow.id).where(doomed.condition(VersionRow)))
    for statement in (delete(LineageRow).where(children), delete(VersionRow).where(doomed.condition(VersionRow))):
        session.execute(statement, execution_options={"synchronize_session": False})
    adapter.version_count -= len(versions)
    renew_latest(session, adapter)
    tell_each(session, EventKind.VERSION_DELETED, adapter, [(version.digest, version.number) for version in versions])
    return Deletion(
        versions=tuple(version.digest for version in versions),
        aliases=tuple(alias for alias, _ in aliases),
        orphans=tuple(orphans),
    )
