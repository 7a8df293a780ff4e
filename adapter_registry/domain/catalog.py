"""What a catalogue is: one Protocol, obeyed by the SQL store on SQLite and on PostgreSQL.

Owns the contract that tests/suites/catalog.py executes. Does not know SQL or the wire. Every
method is one transaction, may be called from any thread, and raises StorageUnavailable where the
database cannot be reached.
"""

from __future__ import annotations

from typing import Protocol

from adapter_registry.domain.filters import Term
from adapter_registry.domain.records import (
    AdapterRecord,
    AliasRecord,
    BaseRecord,
    Deletion,
    Event,
    Listing,
    NewVersion,
    Page,
    VersionRecord,
)
from lorry.format.reference import AdapterName, Reference


class Catalog(Protocol):
    """Bases, adapters, versions, aliases and their history."""

    def add_base(self, base: BaseRecord) -> tuple[BaseRecord, bool]:
        """Store a base; the flag says whether it was new.

        A known base_id answers what is stored, with all names that came added to its known_as.
        Raises BaseConflict where another base has the name, as its own or as a known_as one, or
        where the base_id is stored with another shape.
        """

    def get_base(self, name: str) -> BaseRecord:
        """By name, base_id or known_as name, in this order; of two known_as the first that came.

        Raises BaseNotFound.
        """

    def list_bases(self, page: Page) -> Listing[BaseRecord]:
        """By name. Raises InvalidPageToken."""

    def create_version(self, new: NewVersion) -> tuple[VersionRecord, bool]:
        """Publish; the flag says whether it was new. The same manifest under the same adapter
        answers the stored version (and still moves the alias). Numbers go on where those of a
        deleted adapter of that name ended. Raises ParentNotFound for parents and recipe sources,
        VersionYanked where the alias would name a yanked version, InvalidAdapter for a manifest
        whose JSON could not be read again.
        """

    def get_version(self, reference: Reference) -> VersionRecord:
        """Read a version, yanked or not. A bare name means the newest that is not yanked.
        Raises AdapterNotFound, VersionNotFound, AliasNotFound.
        """

    def resolve(self, reference: Reference) -> VersionRecord:
        """As get_version, but a yanked version is refused unless named by digest.
        Raises VersionYanked besides.
        """

    def list_versions(self, adapter: AdapterName, page: Page) -> Listing[VersionRecord]:
        """Newest first. Raises AdapterNotFound, InvalidPageToken."""

    def yank_version(self, reference: Reference, reason: str) -> VersionRecord:
        """Idempotent; the first reason stays. Raises what get_version raises."""

    def delete_version(self, reference: Reference, *, force: bool) -> Deletion:
        """Raises VersionInUse unless forced, and what get_version raises.

        In use: an alias names it, or a child's lineage does and no other adapter holds the digest.
        """

    def get_adapter(self, adapter: AdapterName) -> AdapterRecord:
        """Raises AdapterNotFound."""

    def list_adapters(self, namespace: str | None, terms: tuple[Term, ...], page: Page) -> Listing[AdapterRecord]:
        """By namespace and name; all terms must hold. Raises InvalidPageToken."""

    def update_adapter(
        self, adapter: AdapterName, *, description: str | None, labels: dict[str, str] | None, revision: int | None
    ) -> AdapterRecord:
        """Write what is not None; compare-and-swap where a revision is given.
        Raises AdapterNotFound, RevisionConflict.
        """

    def delete_adapter(self, adapter: AdapterName, *, force: bool) -> Deletion:
        """Raises AdapterNotFound, VersionInUse."""

    def set_alias(self, reference: Reference, alias: str, expected_revision: int | None) -> AliasRecord:
        """Expected revision 0: it must not exist; None: no condition. Where it points there already, no move.

        Revisions rise with every move and deletion and never begin again.
        Raises RevisionConflict, VersionYanked, and what get_version raises.
        """

    def delete_alias(self, adapter: AdapterName, alias: str, expected_revision: int | None) -> None:
        """Raises AdapterNotFound, AliasNotFound, RevisionConflict."""

    def list_aliases(self, adapter: AdapterName, page: Page) -> Listing[AliasRecord]:
        """Aliases as they are, by name. Raises AdapterNotFound, InvalidPageToken."""

    def alias_history(self, adapter: AdapterName, alias: str, page: Page) -> Listing[AliasRecord]:
        """Moves of an alias, newest first. Raises AdapterNotFound, AliasNotFound, InvalidPageToken."""

    def events(self, after: int, namespace: str | None, limit: int) -> list[Event]:
        """Events with a sequence above `after`, in commit order, at most `limit`.

        None below one that was read will be committed later. Of a namespace: without those of bases.
        """

    def last_event(self) -> int:
        """Sequence of the newest event, 0 where there is none."""

    def probe(self) -> None:
        """Prove that the database answers. Raises StorageUnavailable."""
