"""Versions leave the store, with every row that is about them.

Owns what goes along with a version, and that much of it goes in small transactions: a deleted adapter
is invisible at once and taken apart behind that, a batch at a time, by whoever comes by if the
deleter died. Does not know when a version may go. Blobs stay; garbage collection sees to them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from adapter_registry.domain.records import EventKind
from adapter_registry.store.aliases import drop
from adapter_registry.store.database import Database
from adapter_registry.store.events import tell_each
from adapter_registry.store.keeping import (
    BlobRow,
    EnvelopeRow,
    LeaseRow,
    VerdictRow,
    VersionBlobRow,
    VersionFactsRow,
    VersionModuleRow,
)
from adapter_registry.store.models import AdapterRow, AliasRow, LineageRow, VersionRow
from adapter_registry.store.namespaces import namespace_row

# Versions, or aliases, that go in one transaction. 500 of four modules and two blobs took 0.9 s of the turn to
# write on SQLite with two cores that a dozen other processes shared; half as many stay well below a second.
BATCH = 250
# Digests that a deletion tells; an answer has no more of them.
TOLD = 10_000

_ABOUT_VERSIONS = (VersionBlobRow, VersionModuleRow, VersionFactsRow, VerdictRow, EnvelopeRow, LeaseRow)


class Going(NamedTuple):
    """A version that is to go."""

    id: int
    number: int
    digest: str


def renew_latest(session: Session, adapter: AdapterRow) -> None:
    """Find the newest version that is not yanked again, after one was hidden or deleted."""
    query = select(func.max(VersionRow.number)).where(
        VersionRow.adapter == adapter.id, VersionRow.yank_reason.is_(None)
    )
    adapter.latest_number = session.scalar(query) or 0


def remove(session: Session, adapter: AdapterRow, going: Sequence[Going]) -> None:
    """Delete versions of an adapter that no alias names, at most BATCH of them, and tell it."""
    ids = [version.id for version in going]
    named = select(VersionBlobRow.digest).where(VersionBlobRow.version.in_(ids))
    statements = [
        update(BlobRow).where(BlobRow.digest.in_(named)).values(touched=datetime.now(UTC)),
        *(delete(table).where(table.version.in_(ids)) for table in _ABOUT_VERSIONS),
        delete(LineageRow).where(LineageRow.child.in_(ids)),
        delete(VersionRow).where(VersionRow.id.in_(ids)),
    ]
    for statement in statements:
        session.execute(statement, execution_options={"synchronize_session": False})
    adapter.version_count -= len(going)
    namespace_row(session, adapter.namespace).used_versions -= len(going)
    renew_latest(session, adapter)
    tell_each(session, EventKind.VERSION_DELETED, adapter, [(version.digest, version.number) for version in going])


def remove_batch(session: Session, adapter: AdapterRow) -> list[str]:
    """Delete a batch of what a deleted adapter still has, aliases first; digests of the versions that went."""
    aliases = select(AliasRow.alias, VersionRow.digest).join(VersionRow, VersionRow.id == AliasRow.version)
    named = session.execute(aliases.where(AliasRow.adapter == adapter.id).order_by(AliasRow.alias).limit(BATCH)).all()
    for alias, digest in named:
        drop(session, adapter, alias, digest)
    oldest = select(VersionRow.id, VersionRow.number, VersionRow.digest).where(VersionRow.adapter == adapter.id)
    rows = session.execute(oldest.order_by(VersionRow.number).limit(BATCH - len(named)))
    going = [Going(*row) for row in rows]
    remove(session, adapter, going)
    return [version.digest for version in going]


def take_apart(database: Database, adapter: int) -> list[str]:
    """Delete what is left of a deleted adapter, by its id; nothing where its name came back meanwhile.

    Digests of the versions that went, the first TOLD of them.
    """
    gone: list[str] = []
    left = True
    while left:
        begun = time.monotonic()
        with database.write() as session:
            row = session.get_one(AdapterRow, adapter)
            if row.deleted:
                gone += remove_batch(session, row)[: TOLD - len(gone)]
            left = row.deleted and row.version_count > 0
        if left:
            # Whoever waits for the turn gets it: no lock of ours is fair, and SQLite's waiters only look now and then.
            time.sleep(time.monotonic() - begun)
    return gone
