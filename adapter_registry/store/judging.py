"""Judging inside the store: the bases as they are stored, and the rows that verdicts become.

Owns the memory of module tables and the writing of facts and verdicts. Does not know when a verdict
is asked for, and not the reasons: `lorry.format.compatibility` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from adapter_registry.domain.families import Families
from adapter_registry.domain.records import NewVersion
from adapter_registry.store.bases import base_facts, families
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import VerdictRow, VersionFactsRow
from adapter_registry.store.models import BaseRow
from adapter_registry.store.packing import pack_facts, pack_findings
from lorry.format.base import BaseFacts
from lorry.format.compatibility import judge
from lorry.format.facts import AdapterFacts
from lorry.format.findings import Finding

# Module tables kept in memory: 100 KB each for a base of the usual size, so some 25 MB.
_TABLES = 256


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on a version against the base of that row, as the base was at `revision`."""

    base: int
    base_id: str
    revision: int
    findings: tuple[Finding, ...]

    def row(self, version: int) -> dict[str, object]:
        """As a row of verdicts."""
        return {
            "version": version,
            "base": self.base,
            "revision": self.revision,
            "compatible": all(finding.warning for finding in self.findings),
            "findings": pack_findings(self.findings),
        }


class Judge:
    """Judges versions against stored bases. Any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tables: dict[tuple[str, int], tuple[int, BaseFacts]] = {}

    def on(self, session: Session, known: Families, facts: AdapterFacts, made_for: str, base_id: str) -> Judged:
        """The verdict on a version that was published for the base `made_for`."""
        claimed = self._base(session, known, made_for)[1] if made_for in known.kin else None
        row, base = self._base(session, known, base_id)
        findings = judge(facts, base, claimed=claimed, carry_over=known.carry_over(made_for, base_id))
        return Judged(row, base_id, known.kin[base_id].revision, findings)

    def ahead(self, new: NewVersion) -> list[Judged]:
        """The verdicts on a version that is about to be published, found before the turn to write is taken."""
        if new.facts is None:
            return []
        with self._database.read() as session:
            known = families(session)
            return [self.on(session, known, new.facts, new.manifest.base_id, base_id) for base_id in known.kin]

    def keep(self, session: Session, version: int, new: NewVersion, ahead: Sequence[Judged]) -> None:
        """Write facts and verdicts of a new version in its transaction. Bases that came or changed since
        `ahead` are judged here, so that no version is ever without its verdicts.
        """
        if new.facts is None:
            return
        session.execute(insert(VersionFactsRow).values(version=version, facts=pack_facts(new.facts)))
        known = families(session)
        current = {j.base_id: j for j in ahead if j.revision == known.kin[j.base_id].revision}
        for base_id in known.kin.keys() - current.keys():
            current[base_id] = self.on(session, known, new.facts, new.manifest.base_id, base_id)
        if current:
            session.execute(insert(VerdictRow), [judged.row(version) for judged in current.values()])

    def _base(self, session: Session, known: Families, base_id: str) -> tuple[int, BaseFacts]:
        """Row and shape of a registered base, as it is at its revision."""
        key = base_id, known.kin[base_id].revision
        found = self._tables.get(key)
        if found is None:
            row = session.scalars(select(BaseRow).where(BaseRow.base_id == base_id)).one()
            found = row.id, base_facts(row)
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            self._tables[key] = found
        return found
