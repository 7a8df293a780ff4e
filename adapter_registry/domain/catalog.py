"""What a catalogue is: one Protocol, obeyed by the SQL store on SQLite and on PostgreSQL.

Owns the contract that tests/suites/catalog.py executes. Does not know SQL or the wire. Every
method is one transaction, may be called from any thread, and raises StorageUnavailable where the
database cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from adapter_registry.domain.filters import Term
from adapter_registry.domain.principals import AuditLog, PrincipalStore
from adapter_registry.domain.records import (
    AdapterRecord,
    AliasRecord,
    BaseRecord,
    Deletion,
    Event,
    Expired,
    LeaseRecord,
    Lineage,
    Listing,
    NewVersion,
    Page,
    Renewal,
    VersionRecord,
)
from adapter_registry.domain.verdicts import Verdicts
from lorry.format.compatibility import CarryOver
from lorry.format.reference import AdapterName, Reference


class Listening(Protocol):
    """Somebody who is woken when there are new events."""

    @property
    def live(self) -> bool:
        """Whether commits of all processes wake it now; else it has to look by itself."""

    def close(self) -> None:
        """Wake nobody any more."""


class Catalog(Verdicts, PrincipalStore, AuditLog, Protocol):
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

    def update_base(self, name: str, *, derived_from: str | None, carry_over: CarryOver | None) -> BaseRecord:
        """Change the family of a base: write what is not None; an empty derived_from means that it
        stands alone. Raises BaseNotFound, InvalidInput where it would descend from itself.
        """

    def create_version(self, new: NewVersion) -> tuple[VersionRecord, bool]:
        """Publish; the flag says whether it was new. The same manifest under the same adapter
        answers the stored version (and still adds the signatures and moves the alias). Numbers go on where those of a
        deleted adapter of that name ended. Raises ParentNotFound for parents and recipe sources,
        VersionYanked where the alias would name a yanked version, InvalidAdapter for a manifest
        whose JSON could not be read again, Unavailable where an adapter of this name is being
        deleted, and what add_signatures raises about signatures.
        """

    def get_version(self, reference: Reference) -> VersionRecord:
        """Read a version, yanked or not. A bare name means the newest that is not yanked.
        Raises AdapterNotFound, VersionNotFound, AliasNotFound.
        """

    def resolve(self, reference: Reference) -> VersionRecord:
        """As get_version, but a yanked version is refused unless named by digest.
        Raises VersionYanked besides.
        """

    def list_versions(self, adapter: AdapterName, page: Page, terms: tuple[Term, ...] = ()) -> Listing[VersionRecord]:
        """Newest first; all terms (of VERSION_FIELDS) must hold. Raises AdapterNotFound, InvalidPageToken."""

    def yank_version(self, reference: Reference, reason: str) -> VersionRecord:
        """Idempotent; the first reason stays. Raises what get_version raises."""

    def delete_version(self, reference: Reference, *, force: bool) -> Deletion:
        """Raises VersionInUse unless forced, and what get_version raises.

        In use: an alias names it, a lease that has not expired holds it, or a child's lineage names it
        and no other adapter has the digest. Children that the caller may not read are counted, not named.
        """

    def get_adapter(self, adapter: AdapterName) -> AdapterRecord:
        """Raises AdapterNotFound."""

    def list_adapters(
        self, namespaces: frozenset[str] | None, terms: tuple[Term, ...], page: Page
    ) -> Listing[AdapterRecord]:
        """By namespace and name, of these namespaces alone, None for all; all terms must hold.
        Raises InvalidPageToken.
        """

    def update_adapter(
        self,
        adapter: AdapterName,
        *,
        description: str | None = None,
        labels: dict[str, str] | None = None,
        keep_last: int | None = None,
        revision: int | None = None,
    ) -> AdapterRecord:
        """Write what is not None; compare-and-swap where a revision is given.
        Raises AdapterNotFound, RevisionConflict.
        """

    def delete_adapter(self, adapter: AdapterName, *, force: bool) -> Deletion:
        """Invisible with all that belongs to it from one transaction on; its rows go in as many as it takes,
        and others have their turn between them. Raises AdapterNotFound, VersionInUse.
        """

    def being_deleted(self, adapter: AdapterName) -> bool:
        """Whether an adapter of this name is deleted and not all of its versions are gone."""

    def finish_deletion(self, adapter: AdapterName) -> None:
        """Go on with its deletion, if it is being deleted."""

    def finish_deletions(self) -> int:
        """Go on with deletions of adapters whose process died; how many there were."""

    def expire_versions(self, limit: int, *, dry_run: bool) -> list[Expired]:
        """Delete what retention lets go of: at most `limit` versions, by namespace, name and number.

        Those older than the newest `keep_last` of their adapter that are not yanked, without alias,
        lease or child. One pass: the parent of a version that goes is looked at by the next call.
        dry_run: delete nothing, answer the same.
        """

    def set_alias(self, reference: Reference, alias: str, expected_revision: int | None) -> AliasRecord:
        """Expected revision 0: it must not exist; None: no condition. Where it points there already, no move.

        Revisions rise with every move and deletion and never begin again.
        Raises RevisionConflict, VersionYanked, and what get_version raises.
        """

    def rollback_alias(self, adapter: AdapterName, alias: str, expected_revision: int | None) -> AliasRecord:
        """Point it to where it pointed before its last move; a move as any. A deletion is an end: an alias
        that was made anew since has nothing behind it.

        Raises AdapterNotFound, AliasNotFound, NoEarlierVersion, VersionNotFound where that version was
        deleted, VersionYanked, RevisionConflict.
        """

    def delete_alias(self, adapter: AdapterName, alias: str, expected_revision: int | None) -> None:
        """Raises AdapterNotFound, AliasNotFound, RevisionConflict."""

    def list_aliases(self, adapter: AdapterName, page: Page) -> Listing[AliasRecord]:
        """Aliases as they are, by name. Raises AdapterNotFound, InvalidPageToken."""

    def alias_history(self, adapter: AdapterName, alias: str, page: Page) -> Listing[AliasRecord]:
        """Moves of an alias, newest first. Raises AdapterNotFound, AliasNotFound, InvalidPageToken."""

    def add_signatures(self, reference: Reference, signatures: Sequence[bytes]) -> VersionRecord:
        """Keep envelopes beside those of a version; in the place of another where a key that the namespace lists is
        proven to have signed, and the other claims it.

        Raises InvalidSignature, SignatureRequired where the namespace's policy is not met then,
        Exhausted beyond 16 envelopes or 4 MiB a version, and what get_version raises.
        """

    def get_lineage(self, reference: Reference, depth: int) -> Lineage:
        """Ancestors and descendants up to `depth` generations away, 1,000 versions and 10,000 edges in all.

        A parent that the caller may not read, or that was deleted, is a bare digest; such a child is left
        out; nothing is followed through either. Raises what get_version raises.
        """

    def renew_leases(self, holder: str, references: Sequence[Reference], ttl: timedelta) -> Renewal:
        """Put these (by digest) in the place of all that the holder has; yanked ones are held too."""

    def list_leases(self, adapter: AdapterName, page: Page) -> Listing[LeaseRecord]:
        """Leases that have not expired, by holder and number. Raises AdapterNotFound, InvalidPageToken."""

    def events(self, after: int, namespaces: frozenset[str] | None, limit: int) -> list[Event]:
        """Events with a sequence above `after`, in commit order, at most `limit`; of these namespaces
        alone, "" being that of bases, None for all.

        None below one that was read will be committed later. Raises ResumeTokenExpired where some
        above `after` are not kept any more; after 0 come those that are.
        """

    def last_event(self) -> int:
        """Sequence of the newest event, 0 where there is none."""

    def listen(self, wake: Callable[[], None]) -> Listening:
        """Call `wake`, from any thread, after commits that wrote events; now and then without one."""

    def probe(self) -> None:
        """Prove that the database answers. Raises StorageUnavailable."""
