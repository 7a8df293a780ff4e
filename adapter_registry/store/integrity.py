"""What the database says of bytes that lie elsewhere: the digests that must be there, and why.

Owns the questions of a check of everything, each answered page by page so that other calls go on. Does
not look at bytes.
"""

from __future__ import annotations

from sqlalchemy import Select, select, union
from sqlalchemy.orm import Session

from adapter_registry.domain.garbage import BlobState
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import BlobRow, VersionBlobRow
from adapter_registry.store.models import AdapterRow, VersionRow
from lorry.format.digest import digest_of


class Integrity:
    """The part of the catalogue that checks work on; see domain.garbage.Upkeep."""

    _database: Database

    def states(self, after: str, limit: int) -> list[BlobState]:
        """See Upkeep."""
        with self._database.read() as session:
            digests = _digests(session, after, limit)
            rows = {row.digest: row for row in session.scalars(select(BlobRow).where(BlobRow.digest.in_(digests)))}
        return [_state(digest, rows.get(digest)) for digest in digests]

    def state(self, digest: str) -> BlobState:
        """See Upkeep."""
        with self._database.read() as session:
            return _state(digest, session.get(BlobRow, digest))

    def namers(self, digest: str, limit: int) -> list[str]:
        """See Upkeep."""
        query = _versions().join(VersionBlobRow, VersionBlobRow.version == VersionRow.id)
        query = query.where(VersionBlobRow.digest == digest).order_by(VersionRow.id).limit(limit)
        with self._database.read() as session:
            return [_name(*row) for row in session.execute(query)]

    def spoilt_manifests(self, after: int, limit: int) -> tuple[list[tuple[str, str, str]], int]:
        """See Upkeep."""
        query = _versions().add_columns(VersionRow.id, VersionRow.digest, VersionRow.manifest)
        query = query.where(VersionRow.id > after).order_by(VersionRow.id).limit(limit)
        with self._database.read() as session:
            rows = session.execute(query).all()
        hashed = [(digest, _name(*who), digest_of(manifest.encode())) for *who, _, digest, manifest in rows]
        spoilt = [(digest, name, found) for digest, name, found in hashed if digest != found]
        return spoilt, rows[-1][3] if len(rows) == limit else 0


def _digests(session: Session, after: str, limit: int) -> list[str]:
    """Digests that rows or versions name, ordered; each part is cut first, so that an index answers it."""
    recorded = select(BlobRow.digest).where(BlobRow.digest > after).order_by(BlobRow.digest).limit(limit)
    named = select(VersionBlobRow.digest).where(VersionBlobRow.digest > after).distinct()
    named = named.order_by(VersionBlobRow.digest).limit(limit)
    both = union(select(recorded.subquery()), select(named.subquery())).subquery()
    return list(session.scalars(select(both.c.digest).order_by(both.c.digest).limit(limit)))


def _state(digest: str, row: BlobRow | None) -> BlobState:
    if row is None:
        return BlobState(digest)
    return BlobState(digest, row.size, condemned=row.condemned, quarantined=row.quarantined is not None)


def _versions() -> Select[str, str, int]:
    """Namespace, name and number of versions."""
    query = select(AdapterRow.namespace, AdapterRow.name, VersionRow.number)
    return query.join(VersionRow, VersionRow.adapter == AdapterRow.id)


def _name(namespace: str, name: str, number: int) -> str:
    return f"{namespace}/{name}@{number}"
