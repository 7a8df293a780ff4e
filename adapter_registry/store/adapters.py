"""Adapters in the store: reading, listing and describing them.

Owns how a filter, an order and a page become one query, and how the records of a page are put
together in a fixed number of queries. Adapters are made by their first version (see versions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, and_, select, tuple_
from sqlalchemy.orm import Session

from adapter_registry.domain.filters import Term
from adapter_registry.domain.paging import Cursor, Key, page_size
from adapter_registry.domain.records import AdapterRecord, Listing, Page
from adapter_registry.store.audit import note
from adapter_registry.store.conditions import adapter_condition
from adapter_registry.store.database import Database
from adapter_registry.store.models import AdapterRow, AliasRow, LabelRow, VersionRow
from adapter_registry.store.reading import VERSION, adapter_row, fitting, record_of
from adapter_registry.store.versions import write_labels
from lorry.errors import RevisionConflict
from lorry.format.reference import AdapterName

# Of an adapter, besides what VERSION has of it.
_ADAPTER = (
    AdapterRow.id.label("adapter"),
    AdapterRow.created.label("since"),
    AdapterRow.description,
    AdapterRow.revision,
    AdapterRow.version_count,
    AdapterRow.keep_last,
)


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
            rows = session.execute(query).all()
            items = _records(session, rows[:size])
        size = fitting(_bytes(row, item) for row, item in zip(rows, items, strict=False))
        return cursor.listing(rows, Page(size, page.token), lambda row: (row.namespace, row.name), items[:size])

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


def _newest() -> Select[Any]:
    """Adapters with the version that `latest` tells: the columns of VERSION are null where there is none."""
    newest = and_(VersionRow.adapter == AdapterRow.id, VersionRow.number == AdapterRow.latest_number)
    return select(*VERSION, *_ADAPTER).select_from(AdapterRow).outerjoin(VersionRow, newest).where(~AdapterRow.deleted)


def _listing(namespaces: frozenset[str] | None, terms: tuple[Term, ...], behind: Key | None) -> Select[Any]:
    query = _newest().where(*map(adapter_condition, terms)).order_by(AdapterRow.namespace, AdapterRow.name)
    if namespaces is not None:
        query = query.where(AdapterRow.namespace.in_(sorted(namespaces)))
    if behind is not None:
        query = query.where(tuple_(AdapterRow.namespace, AdapterRow.name) > tuple_(*behind))
    return query


def _bytes(row: Row[Any], record: AdapterRecord) -> int:
    """About what it takes in a message. An alias comes with a digest."""
    texts = (row.manifest or "", record.description, *record.labels, *record.labels.values(), *record.aliases)
    return sum(len(text.encode()) for text in texts) + sum(map(len, record.aliases.values()))


def _record(session: Session, row: AdapterRow) -> AdapterRecord:
    found = session.execute(_newest().where(AdapterRow.id == row.id)).one()
    return _records(session, [found])[0]


def _records(session: Session, rows: Sequence[Row[Any]]) -> list[AdapterRecord]:
    labels: dict[int, dict[str, str]] = {row.adapter: {} for row in rows}
    written = select(LabelRow.adapter, LabelRow.key, LabelRow.value).where(LabelRow.adapter.in_(labels))
    for adapter, key, value in session.execute(written):
        labels[adapter][key] = value
    aliases: dict[int, dict[str, str]] = {row.adapter: {} for row in rows}
    pointing = select(AliasRow.adapter, AliasRow.alias, VersionRow.digest)
    pointing = pointing.join(VersionRow, VersionRow.id == AliasRow.version).where(AliasRow.adapter.in_(aliases))
    for adapter, alias, digest in session.execute(pointing):
        aliases[adapter][alias] = digest
    return [_assemble(row, labels[row.adapter], aliases[row.adapter]) for row in rows]


def _assemble(row: Row[Any], labels: dict[str, str], aliases: dict[str, str]) -> AdapterRecord:
    return AdapterRecord(
        namespace=row.namespace,
        name=row.name,
        description=row.description,
        labels=dict(sorted(labels.items())),
        created=row.since,
        revision=row.revision,
        version_count=row.version_count,
        latest=None if row.id is None else record_of(row),
        aliases=dict(sorted(aliases.items())),
        keep_last=row.keep_last,
    )
