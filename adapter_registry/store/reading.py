"""Rows to records, and the look-ups that every part of the store shares.

Owns what a reference means in the tables, which error says that it means nothing, and how a version is
read: as columns in one query, since an object for each row costs more than the query. Does not write. All
functions work inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, NoReturn

from sqlalchemy import ColumnElement, Row, Select, bindparam, exists, func, select, true
from sqlalchemy.orm import Session, aliased

from adapter_registry.domain.acting import Permission, actor
from adapter_registry.domain.records import VersionRecord
from adapter_registry.store.keeping import EnvelopeRow
from adapter_registry.store.models import AdapterRow, AliasRow, VersionRow
from lorry.errors import AdapterNotFound, AliasNotFound, VersionNotFound
from lorry.format.manifest import Manifest, manifest_from_json
from lorry.format.reference import AdapterName, Reference

# Reading a manifest again costs more than the rest of a look-up. A manifest of a large base takes
# some 20 KB, so these take some 20 MB at most.
_MANIFESTS = 1_000
# A page may be shorter than was asked for: what is long in it stays below this, half of what a message may take.
_PAGE_BYTES = 4 << 20

Located = tuple[AdapterRow, VersionRow]
_Asking = Select[*tuple[Any, ...]]

# No name has it, so aliases come as one text.
_BETWEEN = ","
_Named = aliased(AliasRow)
VERSION = (
    AdapterRow.namespace,
    AdapterRow.name,
    VersionRow.id,
    VersionRow.number,
    VersionRow.digest,
    VersionRow.created,
    VersionRow.yank_reason,
    VersionRow.warnings,
    VersionRow.manifest,
    select(func.aggregate_strings(_Named.alias, _BETWEEN))
    .where(_Named.version == VersionRow.id)
    .scalar_subquery()
    .label("aliases"),
)
_WHETHER_SIGNED = exists().where(EnvelopeRow.version == VersionRow.id).label("signed")


def name_of(row: AdapterRow) -> AdapterName:
    """Name of a stored adapter."""
    return AdapterName(row.namespace, row.name)


def named(adapter: AdapterName) -> ColumnElement[bool]:
    """Condition for the row of an adapter, deleted or not."""
    return (AdapterRow.namespace == adapter.namespace) & (AdapterRow.name == adapter.name)


def readable() -> ColumnElement[bool]:
    """Condition for the adapters that the acting principal may read."""
    namespaces = actor().rights.where(Permission.READ)
    return true() if namespaces is None else AdapterRow.namespace.in_(namespaces)


def adapter_row(session: Session, adapter: AdapterName) -> AdapterRow:
    """The row of an adapter. Raises AdapterNotFound."""
    row = session.scalar(select(AdapterRow).where(named(adapter), ~AdapterRow.deleted))
    if row is None:
        raise AdapterNotFound(f"no adapter {adapter}", adapter=str(adapter))
    return row


def locate(session: Session, reference: Reference) -> Located:
    """The version that a reference names, yanked or not. Raises AdapterNotFound, VersionNotFound, AliasNotFound."""
    found = _found(session, _ROWS, reference)
    return found[0], found[1]


def find_version(session: Session, reference: Reference) -> VersionRecord:
    """The same as a record, its signatures included. Raises AdapterNotFound, VersionNotFound, AliasNotFound."""
    return _signed(session, _found(session, _VERSIONS, reference))


def _found(session: Session, statements: Mapping[str, _Asking], reference: Reference) -> Row[*tuple[Any, ...]]:
    way, value = _way(reference)
    name = reference.adapter
    given = {"in_namespace": name.namespace, "of_name": name.name} | ({} if value is None else {way: value})
    found = session.execute(statements[way], given).first()
    if found is None:
        _explain(session, reference)
    return found


def _way(reference: Reference) -> tuple[str, int | str | None]:
    """How a reference says which version it means, and what it says."""
    for way, value in (("number", reference.number), ("digest", reference.digest), ("alias", reference.alias)):
        if value is not None:
            return way, value
    return "newest", None


def _meanings(what: _Asking) -> dict[str, _Asking]:
    """What is selected of the version that a reference names, by the way that names it.

    Made once: to put a statement together takes longer than to run it.
    """
    name = (AdapterRow.namespace == bindparam("in_namespace")) & (AdapterRow.name == bindparam("of_name"))
    there = what.join(VersionRow, VersionRow.adapter == AdapterRow.id).where(name, ~AdapterRow.deleted)
    pointed = there.join(AliasRow, (AliasRow.adapter == AdapterRow.id) & (AliasRow.version == VersionRow.id))
    return {
        "number": there.where(VersionRow.number == bindparam("number")),
        "digest": there.where(VersionRow.digest == bindparam("digest")),
        "alias": pointed.where(AliasRow.alias == bindparam("alias")),
        "newest": there.where(VersionRow.number == AdapterRow.latest_number),
    }


def _explain(session: Session, reference: Reference) -> NoReturn:
    adapter = str(name_of(adapter_row(session, reference.adapter)))
    if reference.alias is not None:
        raise AliasNotFound(f"adapter {adapter} has no alias {reference.alias!r}", adapter=adapter)
    if reference == Reference(reference.adapter):
        raise VersionNotFound(f"adapter {adapter} has no version that is not yanked", adapter=adapter)
    raise VersionNotFound(f"no version {reference}", adapter=adapter)


def version_record(session: Session, version: VersionRow) -> VersionRecord:
    """The record of a version as it was written in this transaction, its signatures included."""
    return _signed(session, session.execute(_BY_ID, {"id": version.id}).one())


def _signed(session: Session, row: Row[Any]) -> VersionRecord:
    record = record_of(row)
    return replace(record, signatures=_signatures_of(session, row.id)) if row.signed else record


def record_of(row: Row[Any]) -> VersionRecord:
    """The record of a row that has the columns of VERSION.

    Without signatures: each is as large as a manifest or larger, and a page is one message.
    """
    return VersionRecord(
        namespace=row.namespace,
        name=row.name,
        number=row.number,
        manifest=read_manifest(row.manifest),
        digest=row.digest,
        created=row.created,
        yank_reason=row.yank_reason,
        aliases=tuple(sorted(row.aliases.split(_BETWEEN))) if row.aliases else (),
        warnings=tuple(row.warnings),
    )


def fitting(sizes: Iterable[int]) -> int:
    """How many of the first rows a page takes, by their bytes; at least one."""
    return max(1, sum(size <= _PAGE_BYTES for size in accumulate(sizes)))


def _signatures_of(session: Session, version: int) -> tuple[bytes, ...]:
    """Envelopes in the order in which they came."""
    order = (EnvelopeRow.added, EnvelopeRow.digest)
    return tuple(session.scalars(select(EnvelopeRow.envelope).where(EnvelopeRow.version == version).order_by(*order)))


@lru_cache(maxsize=_MANIFESTS)
def read_manifest(text: str) -> Manifest:
    """The manifest of a stored JSON text."""
    return manifest_from_json(text.encode())


_ROWS = _meanings(select(AdapterRow, VersionRow))
_VERSIONS = _meanings(select(*VERSION, _WHETHER_SIGNED))
_BY_ID = (
    select(*VERSION, _WHETHER_SIGNED)
    .join(AdapterRow, AdapterRow.id == VersionRow.adapter)
    .where(VersionRow.id == bindparam("id"))
)
