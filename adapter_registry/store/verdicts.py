"""Facts and verdicts in the store.

Owns which of them are there, and which are missing: a verdict counts as long as its revision is the
base's. Does not know who computes what is missing, or when.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from sqlalchemy import Select, delete, exists, insert, select
from sqlalchemy.orm import Session

from adapter_registry.domain.families import Families
from adapter_registry.domain.paging import Cursor, page_size
from adapter_registry.domain.records import Listing, Page
from adapter_registry.domain.verdicts import Verdict
from adapter_registry.store.bases import families
from adapter_registry.store.database import Database
from adapter_registry.store.judging import Judge, Judged
from adapter_registry.store.keeping import VerdictRow, VersionFactsRow
from adapter_registry.store.models import BaseRow, VersionRow
from adapter_registry.store.packing import pack_facts, unpack_facts, unpack_findings
from adapter_registry.store.reading import locate
from lorry.format.facts import AdapterFacts
from lorry.format.findings import Finding
from lorry.format.manifest import Manifest, manifest_from_json
from lorry.format.reference import Reference

# A page may be shorter than was asked for: an adapter of 2,048 modules that fits nowhere has some
# 300 KB to be told of each base, and a message takes 8 MB.
_PAGE_CHARACTERS = 2_000_000


class Verdicts:
    """The part of the catalogue that keeps facts and verdicts; see domain.verdicts."""

    _database: Database
    _judge: Judge

    def families(self) -> Families:
        """See domain.verdicts."""
        with self._database.read() as session:
            return families(session)

    def stored_facts(self, digest: str) -> AdapterFacts | None:
        """See domain.verdicts."""
        query = select(VersionFactsRow.facts).join(VersionRow, VersionRow.id == VersionFactsRow.version)
        with self._database.read() as session:
            packed = session.scalar(query.where(VersionRow.digest == digest).limit(1))
        return None if packed is None else unpack_facts(packed)

    def list_verdicts(self, reference: Reference, facts: AdapterFacts, page: Page) -> Listing[Verdict]:
        """See domain.verdicts."""
        size = page_size(page.size)
        with self._database.read() as session:
            version = locate(session, reference)[1]
            cursor = Cursor("verdicts", version.digest, (str,))
            behind = cursor.position(page)
            rows = session.execute(_stored(version, str(behind[0]) if behind else "").limit(size + 1)).all()
            known = families(session)

            def findings(base_id: str, stored: bytes | None) -> tuple[Finding, ...]:
                if stored is not None:
                    return unpack_findings(stored)
                return self._judge.on(session, known, facts, version.base_id, base_id).findings

            items = [Verdict(base_id, name, findings(base_id, stored)) for base_id, name, stored in rows[:size]]
        items = items[: _fitting(items)]
        return cursor.listing(rows, Page(len(items), page.token), lambda row: (row.name,), items)

    def versions_without_facts(self, after: str, limit: int) -> list[Manifest]:
        """See domain.verdicts."""
        known = exists().where(VersionFactsRow.version == VersionRow.id)
        query = select(VersionRow.digest, VersionRow.manifest).where(VersionRow.digest > after, ~known)
        with self._database.read() as session:
            found = session.execute(query.order_by(VersionRow.digest).limit(limit)).all()
        return [manifest_from_json(text.encode()) for text in dict(found).values()]

    def add_facts(self, facts: dict[str, AdapterFacts]) -> None:
        """See domain.verdicts."""
        known = exists().where(VersionFactsRow.version == VersionRow.id)
        query = select(VersionRow.id, VersionRow.digest).where(VersionRow.digest.in_(facts), ~known)
        packed = {digest: pack_facts(found) for digest, found in facts.items()}
        with self._database.write() as session:
            rows = [{"version": version, "facts": packed[digest]} for version, digest in session.execute(query)]
            if rows:
                session.execute(insert(VersionFactsRow), rows)

    def judge_versions(self, base_id: str, after: int, limit: int) -> int | None:
        """See domain.verdicts."""
        with self._database.read() as session:
            known = families(session)
            unjudged = session.execute(_unjudged(base_id, after).limit(limit)).all()
            judged = {
                version: self._judge.on(session, known, unpack_facts(packed), made_for, base_id)
                for version, made_for, packed in unjudged
            }
        if judged:
            with self._database.write() as session:
                _replace(session, judged)
        return unjudged[-1].id if len(unjudged) == limit else None


def _fitting(verdicts: Sequence[Verdict]) -> int:
    """How many of the first verdicts a page takes; at least one, if there is one."""
    sizes = accumulate(sum(len(f.message) + len(f.module) for f in verdict.findings) for verdict in verdicts)
    return max(1, sum(size <= _PAGE_CHARACTERS for size in sizes))


def _stored(version: VersionRow, behind: str) -> Select[str, str, bytes | None]:
    """Every base behind that name with the findings of its current verdict, None where there is none."""
    verdict = (VerdictRow.base == BaseRow.id) & (VerdictRow.version == version.id)
    query = select(BaseRow.base_id, BaseRow.name, VerdictRow.findings)
    query = query.join(VerdictRow, verdict & (VerdictRow.revision == BaseRow.revision), isouter=True)
    return query.where(BaseRow.name > behind).order_by(BaseRow.name)


def _unjudged(base_id: str, after: int) -> Select[int, str, bytes]:
    """Versions behind that row with facts, but without a current verdict on the base."""
    base = select(BaseRow.id).where(BaseRow.base_id == base_id).scalar_subquery()
    revision = select(BaseRow.revision).where(BaseRow.base_id == base_id).scalar_subquery()
    judged = exists().where(
        VerdictRow.version == VersionRow.id, VerdictRow.base == base, VerdictRow.revision == revision
    )
    query = select(VersionRow.id, VersionRow.base_id, VersionFactsRow.facts)
    query = query.join(VersionFactsRow, VersionFactsRow.version == VersionRow.id)
    return query.where(VersionRow.id > after, ~judged).order_by(VersionRow.id)


def _replace(session: Session, judged: dict[int, Judged]) -> None:
    """Put verdicts on one base in the place of older ones; not of versions that are gone, and none at
    all where the base's family changed since.
    """
    one = next(iter(judged.values()))
    if session.scalar(select(BaseRow.revision).where(BaseRow.id == one.base)) != one.revision:
        return
    there = session.scalars(select(VersionRow.id).where(VersionRow.id.in_(judged))).all()
    session.execute(delete(VerdictRow).where(VerdictRow.base == one.base, VerdictRow.version.in_(there)))
    if there:
        session.execute(insert(VerdictRow), [judged[version].row(version) for version in there])
