"""Adapters in the store: reading, listing and describing them.

Owns how a filter, an order and a page become one query, and how the records of a page are put
together in a fixed number of queries. Adapters are made by their first version (see versions).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, and_, select, tuple_
from sqlalchemy.orm import Session

from adapter_registry.domain.filters import Term
from adapter_registry.domain.paging import Cursor, Key, page_size
from adapter_registry.domain.records import AdapterRecord, Listing, Page, VersionRecord
from adapter_registry.store.audit import note
from adapter_registry.store.conditions import adapter_condition
from adapter_registry.store.database import Database
from adapter_registry.store.models import AdapterRow, AliasRow, LabelRow, VersionRow
from adapter_registry.store.reading import adapter_row, version_records
from adapter_registry.store.versions import write_labels
from lorry.errors import RevisionConflict
from lorry.format.reference import AdapterName


class Adapters:
    """The part of the catalogue that keeps adapters; see Catalog."""

    _database: Database

    def get_adapter(self, adapter: AdapterName) -> AdapterRecord:
        """See Catalog."""
        with self._database.read() as session:
            return _record(session, adapter_row(session, adapter))

    def list_adapters(
        self, namespaces: frozenset[str] | None, terms: tuple[Term, ...], page: Page
    ) -> Listing[AdapterRecord]:
        """See Catalog."""
        scope = None if namespaces is None else sorted(namespaces)
        cursor = Cursor("adapters", repr((scope, terms)), (str, str))
        size = page_size(page.size)
        query = _listing(namespaces, terms, cursor.position(page)).limit(size + 1)
        with self._database.read() as session:
            rows = [(adapter, version) for adapter, version in session.execute(query)]
            items = _records(session, rows[:size])
        return cursor.listing(rows, page, lambda row: (row[0].namespace, row[0].name), items)

    def update_adapter(
        self,
        adapter: AdapterName,
        *,
        description: str | None = None,
        labels: dict[str, str] | None = None,
        keep_last: int | None = None,
        revision: int | None = None,
    ) -> AdapterRecord:
        """See Catalog."""
        with self._database.write() as session:
            row = adapter_row(session, adapter)
            if revision is not None and revision != row.revision:
                raise RevisionConflict(
                    f"adapter {adapter}: expected revision {revision}, it has {row.revision}",
                    revision=str(row.revision),
                )
            written = []
            if description is not None:
                row.description = description
                written.append("description")
            if labels is not None:
                write_labels(session, row, labels)
                written.append("labels")
            if keep_last is not None:
                row.keep_last = keep_last
                written.append(f"keep_last {keep_last}")
            if written:
                row.revision += 1
                note(session, namespace=row.namespace, name=row.name, detail=", ".join(written))
            return _record(session, row)


def _newest() -> Select[AdapterRow, VersionRow]:
    newest = and_(VersionRow.adapter == AdapterRow.id, VersionRow.number == AdapterRow.latest_number)
    return select(AdapterRow, VersionRow).outerjoin(VersionRow, newest).where(~AdapterRow.deleted)


def _listing(
    namespaces: frozenset[str] | None, terms: tuple[Term, ...], behind: Key | None
) -> Select[AdapterRow, VersionRow]:
    query = _newest().where(*map(adapter_condition, terms)).order_by(AdapterRow.namespace, AdapterRow.name)
    if namespaces is not None:
        query = query.where(AdapterRow.namespace.in_(sorted(namespaces)))
    if behind is not None:
        query = query.where(tuple_(AdapterRow.namespace, AdapterRow.name) > tuple_(*behind))
    return query


def _record(session: Session, row: AdapterRow) -> AdapterRecord:
    session.flush()
    found = session.execute(_newest().where(AdapterRow.id == row.id)).one()
    return _records(session, [(found[0], found[1])])[0]


def _records(session: Session, rows: Sequence[tuple[AdapterRow, VersionRow | None]]) -> list[AdapterRecord]:
    ids = [adapter.id for adapter, _ in rows]
    newest = version_records(session, [(adapter, version) for adapter, version in rows if version is not None])
    latest = {(record.namespace, record.name): record for record in newest}
    labels: dict[int, dict[str, str]] = {row: {} for row in ids}
    for label in session.scalars(select(LabelRow).where(LabelRow.adapter.in_(ids))):
        labels[label.adapter][label.key] = label.value
    aliases: dict[int, dict[str, str]] = {row: {} for row in ids}
    query = select(AliasRow, VersionRow.digest).join(VersionRow, VersionRow.id == AliasRow.version)
    for alias, digest in session.execute(query.where(AliasRow.adapter.in_(ids))):
        aliases[alias.adapter][alias.alias] = digest
    return [_assemble(row, latest.get((row.namespace, row.name)), labels[row.id], aliases[row.id]) for row, _ in rows]


def _assemble(
    row: AdapterRow, latest: VersionRecord | None, labels: dict[str, str], aliases: dict[str, str]
) -> AdapterRecord:
    return AdapterRecord(
        namespace=row.namespace,
        name=row.name,
        description=row.description,
        labels=dict(sorted(labels.items())),
        created=row.created,
        revision=row.revision,
        version_count=row.version_count,
        latest=latest,
        aliases=dict(sorted(aliases.items())),
        keep_last=row.keep_last,
    )
