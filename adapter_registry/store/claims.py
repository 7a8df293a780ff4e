"""Blobs in the store: their rows, and which namespaces claim them.

Owns domain.blobs.Ledger, and the check inside a publishing transaction that every byte is still there.
A claim counts for its namespace's quota once, however often the blob is sent or published there. Does
not touch bytes: a row is written after its bytes are durable and goes after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, exists, select, true, update
from sqlalchemy.orm import Session

from adapter_registry.domain.acting import Permission, actor
from adapter_registry.domain.blobs import TOUCH_EVERY, Admission, BlobRecord, Reservation, being_swept, missing_blobs
from adapter_registry.store.audit import note
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import BlobRow, ClaimRow, NamespaceRow, VersionBlobRow
from adapter_registry.store.models import AdapterRow, VersionRow
from adapter_registry.store.namespaces import namespace_row
from adapter_registry.store.reservations import fill, require_room
from lorry.format.manifest import ManifestFile


class Claims:
    """The part of the catalogue that keeps blobs; see domain.blobs.Ledger."""

    _database: Database

    def present(self, digests: Sequence[str], namespace: str) -> set[str]:
        """See Ledger."""
        query = select(BlobRow.digest, BlobRow.touched).where(_known(digests, namespace))
        with self._database.read() as session:
            touched = dict(session.execute(query).all())
        stale = [digest for digest, moment in touched.items() if moment < datetime.now(UTC) - TOUCH_EVERY]
        if not stale:
            return set(touched)
        with self._database.write() as session:
            # Looked at once more: what was condemned since is not there any more.
            still = set(session.scalars(select(BlobRow.digest).where(_known(list(touched), namespace))))
            session.execute(update(BlobRow).where(BlobRow.digest.in_(stale)).values(touched=datetime.now(UTC)))
            return still

    def find(self, digests: Sequence[str], namespace: str = "") -> dict[str, BlobRecord]:
        """See Ledger."""
        with self._database.read() as session:
            return _found(session, digests, namespace)

    def admit(self, digest: str, size: int, namespace: str) -> Admission:
        """See Ledger."""
        with self._database.read() as session:
            _refuse_condemned(session, digest)
            found = _found(session, [digest], namespace).get(digest)
            known = None if found is None or found.damaged else found
            metered = _metered(session, namespace) and bool(_unclaimed(session, namespace, {digest: size}))
            if known is not None and metered:
                require_room(session, namespace, known.size)
            return Admission(known, metered=metered)

    def record(
        self, digest: str, size: int, blocks: bytes | None, namespace: str, held: Reservation | None = None
    ) -> None:
        """See Ledger."""
        with self._database.write() as session:
            _refuse_condemned(session, digest)
            if held is not None:
                fill(session, held)
            now = datetime.now(UTC)
            row = session.get(BlobRow, digest)
            if row is None:
                row = BlobRow(digest=digest, size=size, stored=now, condemned=False)
                session.add(row)
            row.touched = now
            if blocks is not None:
                row.blocks, row.quarantined = blocks, None
            session.flush()
            if _claim(session, namespace, {digest: row.size}):
                note(session, namespace=namespace, digest=digest, detail=f"{row.size} bytes")

    def know_blocks(self, digest: str, blocks: bytes) -> None:
        """See Ledger."""
        unknown = (BlobRow.digest == digest) & BlobRow.blocks.is_(None)
        with self._database.write() as session:
            session.execute(update(BlobRow).where(unknown).values(blocks=blocks))

    def note_damage(self, digest: str, began: datetime) -> None:
        """See Ledger."""
        unhealed = (BlobRow.digest == digest) & (BlobRow.touched <= began)
        with self._database.write() as session:
            session.execute(update(BlobRow).where(unhealed).values(quarantined=datetime.now(UTC)))


def require_live(session: Session, namespace: str, files: Sequence[ManifestFile]) -> None:
    """In the transaction that publishes them: every file's blob is live, of the right size and within
    reach, and the namespace claims it from now on.

    So a collection of garbage that condemned a blob since it was read cannot leave a version without
    bytes. Raises MissingBlobs, QuotaExceeded.
    """
    wanted = {file.digest: file.size for file in files}
    query = select(BlobRow.digest, BlobRow.size).where(_known(list(wanted), namespace))
    sizes = dict(session.execute(query).all())
    lacking = [digest for digest, size in wanted.items() if sizes.get(digest) != size]
    if lacking:
        raise missing_blobs(lacking)
    _claim(session, namespace, wanted)


def _known(digests: Sequence[str], namespace: str) -> ColumnElement[bool]:
    """Of these digests, live and within reach."""
    return _named(digests, namespace) & BlobRow.quarantined.is_(None)


def _named(digests: Sequence[str], namespace: str) -> ColumnElement[bool]:
    """Of these digests, live or damaged, and within reach."""
    return BlobRow.digest.in_(digests) & ~BlobRow.condemned & _within_reach(namespace)


def _within_reach(namespace: str) -> ColumnElement[bool]:
    readable = actor().rights.where(Permission.READ)
    if readable is None:
        return true()
    spaces = readable | {namespace}
    claimed = exists().where(ClaimRow.digest == BlobRow.digest, ClaimRow.namespace.in_(spaces))
    version = (VersionRow.id == VersionBlobRow.version) & (VersionBlobRow.digest == BlobRow.digest)
    adapter = (AdapterRow.id == VersionRow.adapter) & ~AdapterRow.deleted
    return claimed | exists().where(version, adapter, AdapterRow.namespace.in_(spaces))


def _found(session: Session, digests: Sequence[str], namespace: str) -> dict[str, BlobRecord]:
    columns = select(BlobRow.digest, BlobRow.size, BlobRow.blocks, BlobRow.quarantined.is_not(None))
    rows = session.execute(columns.where(_named(digests, namespace)))
    return {digest: BlobRecord(digest, size, blocks, damaged) for digest, size, blocks, damaged in rows}


def _refuse_condemned(session: Session, digest: str) -> None:
    if session.scalar(select(BlobRow.condemned).where(BlobRow.digest == digest)):
        raise being_swept(digest)


def _unclaimed(session: Session, namespace: str, sizes: dict[str, int]) -> dict[str, int]:
    """Those that the namespace does not claim yet."""
    ours = select(ClaimRow.digest).where(ClaimRow.namespace == namespace, ClaimRow.digest.in_(list(sizes)))
    claimed = set(session.scalars(ours))
    return {digest: size for digest, size in sizes.items() if digest not in claimed}


def _metered(session: Session, namespace: str) -> bool:
    return bool(session.scalar(select(NamespaceRow.max_bytes).where(NamespaceRow.name == namespace)))


def _claim(session: Session, namespace: str, sizes: dict[str, int]) -> bool:
    """Make the claims that are not there yet; whether there were any. Raises QuotaExceeded."""
    new = _unclaimed(session, namespace, sizes)
    if not new:
        return False
    require_room(session, namespace, sum(new.values()))
    now = datetime.now(UTC)
    session.add_all(ClaimRow(digest=digest, namespace=namespace, created=now) for digest in new)
    namespace_row(session, namespace).used_bytes += sum(new.values())
    session.flush()
    return True
