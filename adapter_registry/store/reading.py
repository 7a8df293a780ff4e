"""Rows to records, and the look-ups that every part of the store shares.

Owns what a reference means in the tables and which error says that it means nothing. Does not
write. All functions work inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NoReturn

from sqlalchemy import ColumnElement, Select, select, true
from sqlalchemy.orm import Session

from adapter_registry.domain.acting import Permission, actor
from adapter_registry.domain.records import VersionRecord
from adapter_registry.store.keeping import SignatureRow
from adapter_registry.store.models import AdapterRow, AliasRow, VersionRow
from lorry.errors import AdapterNotFound, AliasNotFound, VersionNotFound
from lorry.format.manifest import Manifest, manifest_from_json
from lorry.format.reference import AdapterName, Reference

# Reading a manifest again costs more than the rest of a look-up. A manifest of a large base takes
# some 20 KB, so these take some 20 MB at most.
_MANIFESTS = 1_000

Located = tuple[AdapterRow, VersionRow]


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
    found = session.execute(_meaning(reference)).first()
    if found is None:
        _explain(session, reference)
    return found[0], found[1]


def _meaning(reference: Reference) -> Select[AdapterRow, VersionRow]:
    query = select(AdapterRow, VersionRow).join(VersionRow, VersionRow.adapter == AdapterRow.id)
    query = query.where(named(reference.adapter), ~AdapterRow.deleted)
    if reference.number is not None:
        return query.where(VersionRow.number == reference.number)
    if reference.digest is not None:
        return query.where(VersionRow.digest == reference.digest)
    if reference.alias is None:
        return query.where(VersionRow.number == AdapterRow.latest_number)
    return query.join(AliasRow, AliasRow.version == VersionRow.id).where(
        AliasRow.adapter == AdapterRow.id, AliasRow.alias == reference.alias
    )


def _explain(session: Session, reference: Reference) -> NoReturn:
    adapter = str(name_of(adapter_row(session, reference.adapter)))
    if reference.alias is not None:
        raise AliasNotFound(f"adapter {adapter} has no alias {reference.alias!r}", adapter=adapter)
    if reference == Reference(reference.adapter):
        raise VersionNotFound(f"adapter {adapter} has no version that is not yanked", adapter=adapter)
    raise VersionNotFound(f"no version {reference}", adapter=adapter)


def version_record(session: Session, found: Located) -> VersionRecord:
    """The record of one version, its signatures included."""
    record = version_records(session, [found])[0]
    return replace(record, signatures=_signatures_of(session, found[1]))


def version_records(session: Session, found: Sequence[Located]) -> list[VersionRecord]:
    """The records of versions, in order; their aliases are read in one go.

    Without signatures: each is as large as a manifest or larger, and a page is one message.
    """
    aliases = _aliases_of(session, [version.id for _, version in found])
    return [_record(adapter, version, aliases[version.id]) for adapter, version in found]


def _aliases_of(session: Session, versions: Sequence[int]) -> dict[int, list[str]]:
    aliases: dict[int, list[str]] = {version: [] for version in versions}
    for row in session.scalars(select(AliasRow).where(AliasRow.version.in_(versions))):
        aliases[row.version].append(row.alias)
    return aliases


def _signatures_of(session: Session, version: VersionRow) -> tuple[bytes, ...]:
    """Envelopes in the order in which they came, each once: several keys may have signed one."""
    rows = session.scalars(select(SignatureRow).where(SignatureRow.version == version.id))
    return tuple(dict.fromkeys(row.envelope for row in sorted(rows, key=lambda row: (row.added, row.key_id))))


def _record(adapter: AdapterRow, version: VersionRow, aliases: list[str]) -> VersionRecord:
    return VersionRecord(
        namespace=adapter.namespace,
        name=adapter.name,
        number=version.number,
        manifest=read_manifest(version.manifest),
        digest=version.digest,
        created=version.created,
        yank_reason=version.yank_reason,
        aliases=tuple(sorted(aliases)),
        warnings=tuple(version.warnings),
    )


@lru_cache(maxsize=_MANIFESTS)
def read_manifest(text: str) -> Manifest:
    """The manifest of a stored JSON text."""
    return manifest_from_json(text.encode())
