"""Verdicts as data: what is kept of each version against each base, as a Protocol.

Owns the contract that the catalogue's suite executes. A verdict that is not kept yet is computed
when somebody asks; nobody ever sees that it was missing. Does not know how a verdict is found:
`lorry.format.compatibility` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from adapter_registry.domain.families import Families
from adapter_registry.domain.records import Listing, Page
from lorry.format.facts import AdapterFacts
from lorry.format.findings import Finding
from lorry.format.manifest import Manifest
from lorry.format.reference import Reference


@dataclass(frozen=True, slots=True)
class Verdict:
    """A registered base, and everything that there is to say about a version on it."""

    base_id: str
    base_name: str
    findings: tuple[Finding, ...]

    @property
    def compatible(self) -> bool:
        """Whether the version may be served on it."""
        return all(finding.warning for finding in self.findings)


class Verdicts(Protocol):
    """The part of a catalogue that keeps facts and verdicts. As for Catalog, each method is one
    transaction (judge_versions two) and may be called from any thread.
    """

    def families(self) -> Families:
        """The registered bases and their descent."""

    def stored_facts(self, digest: str) -> AdapterFacts | None:
        """What the version of that digest is; None where that is not stored yet."""

    def list_verdicts(self, reference: Reference, facts: AdapterFacts, page: Page) -> Listing[Verdict]:
        """On every registered base, by its name; those that are not stored are computed from `facts`.

        Raises what get_version raises, InvalidPageToken.
        """

    def versions_without_facts(self, after: str, limit: int) -> list[Manifest]:
        """At most `limit` versions whose facts are not stored, by digest, those behind `after`."""

    def add_facts(self, facts: dict[str, AdapterFacts]) -> None:
        """Store the facts of versions by digest; those of versions that are gone are left out."""

    def judge_versions(self, base_id: str, after: int, limit: int) -> int | None:
        """Store up to `limit` verdicts on a base that are missing, of versions behind the position
        `after` (0: from the first on). Answers the position to go on from, None at the end.

        What others judged meanwhile is judged alike; what a change of the family overtook is left
        to whoever made the change. Versions without facts are passed over.
        """
