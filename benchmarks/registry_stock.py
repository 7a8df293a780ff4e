"""A catalogue with as many versions as a benchmark wants, written in bulk.

Owns the rows: real manifests, each of other weights, in the tables that a publication writes. Their blobs
have rows and no bytes. Does not know what is measured.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from adapter_registry.store.database import Database, create_engine_for
from adapter_registry.store.keeping import (
    BlobRow,
    ClaimRow,
    NamespaceRow,
    VerdictRow,
    VersionBlobRow,
    VersionFactsRow,
    VersionModuleRow,
)
from adapter_registry.store.models import AdapterRow, LineageRow, VersionRow
from lorry import RegistryClient
from lorry.format.manifest import Manifest, manifest_from_json
from tests.support.adapters import BASE_NAME, base_for, write_adapter

NAMESPACE = "stock"
# Half of the versions are one adapter's, the others lie in adapters of 50: a long line, and many short ones.
LONG = f"{NAMESPACE}/long"
_SHORT = 50
_BATCH = 5_000
# Each tenth version was trained on the one before.
_CHILDREN = 10


def short(index: int) -> str:
    """Name of one of the short ones."""
    return f"{NAMESPACE}/short-{index:05}"


def shorts(versions: int) -> int:
    """How many short ones there are."""
    return versions // 2 // _SHORT


async def stock(client: RegistryClient, url: str, versions: int, folder: Path) -> None:
    """Publish one version in earnest, and write copies of its rows with other digests."""
    await client.register_base_model(BASE_NAME, base_for())
    await client.push(write_adapter(folder / "template"), f"{NAMESPACE}/template", base=BASE_NAME)
    await asyncio.to_thread(_write, url, versions)


class _Copy(NamedTuple):
    """A version to be written."""

    id: int
    adapter: int
    number: int
    manifest: Manifest


class _Template(NamedTuple):
    """Rows of the version that was published in earnest."""

    version: VersionRow
    facts: bytes
    base: int
    modules: list[str]


def _write(url: str, versions: int) -> None:
    database = Database(create_engine_for(url))
    with database.write() as session:
        template = _template(session)
        adapters = list(_adapters(session, versions))
        copies = _copies(template, adapters)
        while batch := list(islice(copies, _BATCH)):
            _insert(session, template, batch)
        session.execute(NamespaceRow.__table__.update().values(used_versions=versions + 1))  # type: ignore[attr-defined]
        if session.get_bind().dialect.name == "postgresql":
            # Rows that came by themselves would not have come by numbers of ours.
            for table in ("adapters", "versions"):
                session.execute(text(f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))"))  # noqa: S608
        session.execute(text("ANALYZE"))
    database.close()


def _template(session: Session) -> _Template:
    version = session.scalars(select(VersionRow)).one()
    modules = session.scalars(select(VersionModuleRow.module).where(VersionModuleRow.version == version.id))
    base = session.scalars(select(VerdictRow.base)).one()
    return _Template(version, session.scalars(select(VersionFactsRow.facts)).one(), base, list(modules))


def _adapters(session: Session, versions: int) -> Iterator[tuple[int, int]]:
    """Write the adapters; the id of each and how many versions it has."""
    first = session.scalars(select(func.max(AdapterRow.id))).one() + 1
    sizes = [(LONG, versions - shorts(versions) * _SHORT)]
    sizes += [(short(index), _SHORT) for index in range(shorts(versions))]
    now = datetime.now(UTC)
    rows = [
        {
            "id": first + index,
            "namespace": NAMESPACE,
            "name": name.partition("/")[2],
            "created": now,
            "revision": 1,
            "last_number": count,
            "latest_number": count,
            "version_count": count,
            "deleted": False,
            "description": "",
            "keep_last": 0,
        }
        for index, (name, count) in enumerate(sizes)
    ]
    session.execute(insert(AdapterRow), rows)
    yield from zip((int(str(row["id"])) for row in rows), (count for _, count in sizes), strict=True)


def _copies(template: _Template, adapters: list[tuple[int, int]]) -> Iterator[_Copy]:
    manifest = manifest_from_json(template.version.manifest.encode())
    others, weights = manifest.files[:-1], manifest.files[-1]
    number = template.version.id
    for adapter, count in adapters:
        parents: tuple[str, ...] = ()
        for index in range(1, count + 1):
            number += 1
            other = f"sha256:{hashlib.sha256(f'{adapter} {index}'.encode()).hexdigest()}"
            files = (*others, replace(weights, digest=other))
            copy = _Copy(number, adapter, index, replace(manifest, files=files, parents=parents))
            yield copy
            parents = (copy.manifest.digest,) if index % _CHILDREN == 0 else ()


def _insert(session: Session, template: _Template, copies: list[_Copy]) -> None:
    now = datetime.now(UTC)
    versions = [_version_row(template, copy, now) for copy in copies]
    weights = [copy.manifest.files[-1] for copy in copies]
    blob = {"blocks": None, "stored": now, "touched": now, "condemned": False, "quarantined": None}
    verdict = {"base": template.base, "compatible": True, "findings": b"", "revision": 1}
    rows: list[tuple[type[Any], list[dict[str, Any]]]] = [
        (VersionRow, versions),
        (BlobRow, [{"digest": file.digest, "size": file.size, **blob} for file in weights]),
        (ClaimRow, [{"digest": file.digest, "namespace": NAMESPACE, "created": now} for file in weights]),
        (VersionBlobRow, [{"version": c.id, "digest": file.digest} for c in copies for file in c.manifest.files]),
        (VersionModuleRow, [{"version": c.id, "module": module} for c in copies for module in template.modules]),
        (VersionFactsRow, [{"version": copy.id, "facts": template.facts} for copy in copies]),
        (VerdictRow, [{"version": copy.id, **verdict} for copy in copies]),
        (LineageRow, [{"child": c.id, "parent": parent} for c in copies for parent in c.manifest.parents]),
    ]
    for table, values in rows:
        if values:
            session.execute(insert(table), values)


def _version_row(template: _Template, copy: _Copy, now: datetime) -> dict[str, Any]:
    return {
        "id": copy.id,
        "adapter": copy.adapter,
        "number": copy.number,
        "digest": copy.manifest.digest,
        "base_id": template.version.base_id,
        "variant": template.version.variant,
        "rank": template.version.rank,
        "size": copy.manifest.size,
        "created": now,
        "yank_reason": None,
        "warnings": [],
        "manifest": copy.manifest.canonical_json().decode(),
    }
