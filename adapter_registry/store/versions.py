"""Versions in the store: publishing, reading and yanking.

Owns numbers, which are given once and never again, and which version is an adapter's newest. Does
not check formats or compatibility: what comes here was checked, and its blobs are stored.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from adapter_registry.domain.filters import Term
from adapter_registry.domain.namespaces import over_quota
from adapter_registry.domain.paging import Cursor, page_size
from adapter_registry.domain.records import EventKind, Listing, NewVersion, Page, VersionRecord
from adapter_registry.store.aliases import point, refuse_yanked
from adapter_registry.store.claims import require_live
from adapter_registry.store.conditions import version_condition
from adapter_registry.store.database import Database
from adapter_registry.store.events import tell
from adapter_registry.store.judging import Judge
from adapter_registry.store.keeping import VersionBlobRow, VersionModuleRow
from adapter_registry.store.models import AdapterRow, LabelRow, LineageRow, VersionRow
from adapter_registry.store.namespaces import namespace_row
from adapter_registry.store.reading import (
    VERSION,
    adapter_row,
    find_version,
    fitting,
    locate,
    name_of,
    named,
    readable,
    record_of,
    version_record,
)
from adapter_registry.store.removal import renew_latest
from adapter_registry.store.signatures import admit
from lorry.errors import ParentNotFound, Unavailable
from lorry.format.manifest import Manifest, manifest_from_json
from lorry.format.reference import AdapterName, Reference


class Versions:
    """The part of the catalogue that keeps versions; see Catalog."""

    _database: Database
    _judge: Judge

    def create_version(self, new: NewVersion) -> tuple[VersionRecord, bool]:
        """See Catalog."""
        verdicts = self._judge.ahead(new)
        with self._database.write() as session:
            adapter = _owner(session, new)
            stored = (VersionRow.adapter == adapter.id) & (VersionRow.digest == new.manifest.digest)
            version = session.scalar(select(VersionRow).where(stored))
            created = version is None
            if version is None:
                version = _publish(session, adapter, new)
                self._judge.keep(session, version.id, new, verdicts)
            admit(session, adapter, version, new.signatures)
            if new.alias is not None:
                point(session, adapter, version, new.alias, None)
            return version_record(session, version), created

    def get_version(self, reference: Reference) -> VersionRecord:
        """See Catalog."""
        with self._database.read() as session:
            return find_version(session, reference)

    def resolve(self, reference: Reference) -> VersionRecord:
        """See Catalog."""
        with self._database.read() as session:
            version = find_version(session, reference)
        if reference.digest is None:
            refuse_yanked(reference.adapter, version.number, version.yank_reason)
        return version

    def list_versions(self, adapter: AdapterName, page: Page, terms: tuple[Term, ...] = ()) -> Listing[VersionRecord]:
        """See Catalog."""
        cursor = Cursor("versions", repr((str(adapter), terms)), (int,))
        size = page_size(page.size)
        behind = cursor.position(page)
        with self._database.read() as session:
            query = select(*VERSION).join(AdapterRow, AdapterRow.id == VersionRow.adapter)
            query = query.where(AdapterRow.id == adapter_row(session, adapter).id, *map(version_condition, terms))
            if behind:
                query = query.where(VersionRow.number < behind[0])
            rows = session.execute(query.order_by(VersionRow.number.desc()).limit(size + 1)).all()
        size = fitting(len(row.manifest.encode()) + len(json.dumps(row.warnings)) for row in rows[:size])
        items = [record_of(row) for row in rows[:size]]
        return cursor.listing(rows, Page(size, page.token), lambda row: (row.number,), items)

    def yank_version(self, reference: Reference, reason: str) -> VersionRecord:
        """See Catalog."""
        with self._database.write() as session:
            adapter, version = locate(session, reference)
            if version.yank_reason is None:
                version.yank_reason = reason
                session.flush()
                renew_latest(session, adapter)
                tell(session, EventKind.VERSION_YANKED, adapter, version.digest, number=version.number, text=reason)
            return version_record(session, version)


def _owner(session: Session, new: NewVersion) -> AdapterRow:
    """The adapter of a new version; made, or called back from deletion, where there is none."""
    row = session.scalar(select(AdapterRow).where(named(AdapterName(new.namespace, new.name))))
    if row is not None and not row.deleted:
        return row
    if row is not None and row.version_count:
        raise Unavailable(f"adapter {name_of(row)} is being deleted; its name is free in a moment")
    if row is None:
        row = AdapterRow(namespace=new.namespace, name=new.name, revision=0, last_number=0)
        session.add(row)
    row.created = datetime.now(UTC)
    row.revision += 1
    row.latest_number = row.version_count = 0
    row.deleted = False
    row.keep_last = 0
    row.description = new.description
    session.flush()
    write_labels(session, row, new.labels)
    return row


def write_labels(session: Session, adapter: AdapterRow, labels: dict[str, str]) -> None:
    """Put these labels in the place of all that the adapter has."""
    session.execute(delete(LabelRow).where(LabelRow.adapter == adapter.id))
    session.add_all(LabelRow(adapter=adapter.id, key=key, value=value) for key, value in labels.items())
    session.flush()


def _publish(session: Session, adapter: AdapterRow, new: NewVersion) -> VersionRow:
    # What could not be read again is not stored.
    manifest = manifest_from_json(new.manifest.canonical_json())
    ancestors = _ancestors(session, manifest)
    require_live(session, adapter.namespace, manifest.files)
    _count(session, adapter.namespace)
    adapter.last_number += 1
    adapter.latest_number = adapter.last_number
    adapter.version_count += 1
    version = VersionRow(
        adapter=adapter.id,
        number=adapter.last_number,
        digest=manifest.digest,
        base_id=manifest.base_id,
        variant=manifest.variant,
        rank=manifest.rank,
        size=manifest.size,
        created=datetime.now(UTC),
        warnings=list(new.warnings),
        manifest=manifest.canonical_json().decode(),
    )
    session.add(version)
    session.flush()
    session.add_all(LineageRow(child=version.id, parent=digest) for digest in ancestors)
    session.add_all(VersionBlobRow(version=version.id, digest=digest) for digest in {f.digest for f in manifest.files})
    modules = {path.rpartition(".")[2] for path in manifest.target_modules}
    session.add_all(VersionModuleRow(version=version.id, module=module) for module in modules)
    tell(session, EventKind.VERSION_CREATED, adapter, version.digest, number=version.number)
    return version


def _count(session: Session, namespace: str) -> None:
    """One more version. Raises QuotaExceeded."""
    row = namespace_row(session, namespace)
    if row.max_versions and row.used_versions >= row.max_versions:
        raise over_quota(namespace, "versions", limit=row.max_versions, used=row.used_versions, asked=1)
    row.used_versions += 1


def _ancestors(session: Session, manifest: Manifest) -> list[str]:
    """Parents and recipe sources, each once; all must be readable to the caller. Raises ParentNotFound."""
    sources = [source.digest for source in manifest.recipe.sources] if manifest.recipe else []
    named_digests = list(dict.fromkeys([*manifest.parents, *sources]))
    published = select(VersionRow.digest).join(AdapterRow, AdapterRow.id == VersionRow.adapter)
    there = published.where(VersionRow.digest.in_(named_digests), ~AdapterRow.deleted, readable())
    known = set(session.scalars(there))
    missing = [digest for digest in named_digests if digest not in known]
    if missing:
        raise ParentNotFound(f"no version has the digest of {len(missing)} parents: {', '.join(missing[:20])}")
    return named_digests
