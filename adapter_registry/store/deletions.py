"""Deletions in the store: versions and whole adapters, and what refuses them.

Owns when a version is in use: while an alias names it, a lease holds it, or a child's lineage needs
it and no other adapter has the same version. Does not know what rows go along; see removal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select, true
from sqlalchemy.orm import Session, aliased

from adapter_registry.domain.records import Deletion
from adapter_registry.store.aliases import drop
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import LeaseRow
from adapter_registry.store.leases import now_of
from adapter_registry.store.models import AdapterRow, AliasRow, LineageRow, VersionRow
from adapter_registry.store.reading import adapter_row, locate, name_of, named, readable
from adapter_registry.store.removal import TOLD, Going, remove, remove_batch, take_apart
from adapter_registry.store.versions import write_labels
from lorry.errors import VersionInUse
from lorry.format.reference import AdapterName, Reference

# Names that a refusal tells; the rest is a number. They share 8 KB of trailers with all else.
_TOLD = 20
# Digests in one question; SQLite takes 32,766 parameters, PostgreSQL's driver 65,535.
_ASKED = 10_000

# The versions that are to go, as a condition on any alias of their table.
Doomed = Callable[[type[VersionRow]], ColumnElement[bool]]


class Deletions:
    """The part of the catalogue that deletes; see Catalog."""

    _database: Database

    def delete_version(self, reference: Reference, *, force: bool) -> Deletion:
        """See Catalog."""
        with self._database.write() as session:
            adapter, version = locate(session, reference)
            users = _users(session, lambda row: row.id == version.id)
            if not force:
                users.refuse(f"{name_of(adapter)}@{version.number}")
            for alias in users.aliases:
                drop(session, adapter, alias, version.digest)
            remove(session, adapter, [Going(version.id, version.number, version.digest)])
            return Deletion((version.digest,), users.aliases, users.children, users.leases)

    def delete_adapter(self, adapter: AdapterName, *, force: bool) -> Deletion:
        """See Catalog."""
        with self._database.write() as session:
            row = adapter_row(session, adapter)
            users = _users(session, lambda version: version.adapter == row.id)
            if not force:
                users.but_for_aliases().refuse(str(adapter))
            row.deleted = True
            row.description = ""
            write_labels(session, row, {})
            gone = remove_batch(session, row)
            left = row.version_count > 0
        if left:
            gone += take_apart(self._database, row.id)
        return Deletion(tuple(gone[:TOLD]), users.aliases, users.children, users.leases)

    def being_deleted(self, adapter: AdapterName) -> bool:
        """See Catalog."""
        return bool(self._halves(named(adapter)))

    def finish_deletion(self, adapter: AdapterName) -> None:
        """See Catalog."""
        for half in self._halves(named(adapter)):
            take_apart(self._database, half)

    def finish_deletions(self) -> int:
        """See Catalog."""
        halves = self._halves(true())
        for adapter in halves:
            take_apart(self._database, adapter)
        return len(halves)

    def _halves(self, which: ColumnElement[bool]) -> Sequence[int]:
        """Adapters that are deleted and have versions left, by id."""
        query = select(AdapterRow.id).where(AdapterRow.deleted, AdapterRow.version_count > 0, which)
        with self._database.read() as session:
            return session.scalars(query).all()


@dataclass(frozen=True, slots=True)
class _Users:
    """Who needs some versions. children: digests that the caller may read; hidden: how many more."""

    aliases: tuple[str, ...]
    leases: tuple[str, ...]
    children: tuple[str, ...]
    hidden: int

    def but_for_aliases(self) -> _Users:
        """Those who outlive the adapter."""
        return _Users((), self.leases, self.children, self.hidden)

    def refuse(self, subject: str) -> None:
        """Raise VersionInUse where there is anybody."""
        users = [f"alias {alias}" for alias in self.aliases]
        users += [f"the lease of {holder}" for holder in self.leases]
        users += [f"child {digest}" for digest in self.children]
        told = users[:_TOLD]
        if len(users) > _TOLD:
            told[-1] += f" and {len(users) - _TOLD} more"
        if self.hidden:
            told.append(f"{self.hidden} children in namespaces that the caller may not read")
        if told:
            raise VersionInUse(f"{subject} is needed by {', '.join(told)}")


def _users(session: Session, doomed: Doomed) -> _Users:
    children = _children(session, doomed)
    return _Users(
        aliases=_aliases(session, doomed),
        leases=_leases(session, doomed),
        children=tuple(sorted(digest for digest, shown in children.items() if shown)),
        hidden=sum(not shown for shown in children.values()),
    )


def _aliases(session: Session, doomed: Doomed) -> tuple[str, ...]:
    query = select(AliasRow.alias).join(VersionRow, VersionRow.id == AliasRow.version)
    return tuple(session.scalars(query.where(doomed(VersionRow)).order_by(AliasRow.alias)))


def _leases(session: Session, doomed: Doomed) -> tuple[str, ...]:
    query = select(LeaseRow.holder).distinct().join(VersionRow, VersionRow.id == LeaseRow.version)
    return tuple(
        session.scalars(query.where(doomed(VersionRow), LeaseRow.expires > now_of(session)).order_by("holder"))
    )


def _children(session: Session, doomed: Doomed) -> dict[str, bool]:
    """Children that stay while the last version of a parent's digest goes; whether the caller may read them."""
    born = _born_elsewhere(session, doomed)
    kept = _twins(session, sorted({parent for parent, _, _ in born}), doomed)
    shown: dict[str, bool] = {}
    for parent, digest, may_read in born:
        if parent not in kept:
            shown[digest] = shown.get(digest, False) or may_read
    return shown


def _born_elsewhere(session: Session, doomed: Doomed) -> list[tuple[str, str, bool]]:
    """Parent, child and whether the caller may read the child, for children that stay of parents that go."""
    parent, child = aliased(VersionRow), aliased(VersionRow)
    query = select(parent.digest, child.digest, readable()).distinct()
    query = query.join(LineageRow, LineageRow.parent == parent.digest).join(child, child.id == LineageRow.child)
    query = query.join(AdapterRow, AdapterRow.id == child.adapter)
    query = query.where(doomed(parent), ~doomed(child), ~AdapterRow.deleted)
    return [(one, other, may_read) for one, other, may_read in session.execute(query)]


def _twins(session: Session, digests: Sequence[str], doomed: Doomed) -> set[str]:
    """Those of the digests that some adapter keeps a version of. Few versions have children elsewhere, so this
    comes second: asked of each of 100,000 versions that go, it would hold everybody's turn to write.
    """
    kept: set[str] = set()
    for start in range(0, len(digests), _ASKED):
        query = select(VersionRow.digest).join(AdapterRow, AdapterRow.id == VersionRow.adapter)
        asked = VersionRow.digest.in_(digests[start : start + _ASKED])
        kept.update(session.scalars(query.where(asked, ~doomed(VersionRow), ~AdapterRow.deleted)))
    return kept
