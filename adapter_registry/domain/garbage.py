"""What the registry's upkeep asks of the catalogue: which blobs are garbage, and what is not as it should be.

Owns the Protocol that the SQL store obeys and tests/suites/upkeep.py executes. Does not know blob
stores, SQL or the wire. Every method is one transaction and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob: its digest, its length in bytes, and since when it is there."""

    digest: str
    size: int
    since: datetime


@dataclass(frozen=True, slots=True)
class BlobState:
    """A blob that a row or a version names. size: in bytes, None where it has no row. condemned: on its
    way out. quarantined: its bytes were put aside.
    """

    digest: str
    size: int | None = None
    condemned: bool = False
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Ages:
    """What is old, by kind: rows of before these moments are forgotten. audit: None keeps all of it.
    uploads: reservations that nobody renewed since. Leases need none: they say when they end.
    """

    events: datetime
    uploads: datetime
    audit: datetime | None


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection of garbage did, or would do. expired: `namespace/name@number` of versions that
    retention let go of, the first of them; sizes in bytes. discarded: damaged blobs out of quarantine.
    """

    expired: tuple[str, ...] = ()
    expired_count: int = 0
    swept_blobs: int = 0
    swept_bytes: int = 0
    kept_blobs: int = 0
    kept_bytes: int = 0
    swept_uploads: int = 0
    forgotten_rows: int = 0
    discarded_blobs: int = 0
    discarded_bytes: int = 0


class Problem(StrEnum):
    """What a check can find."""

    CORRUPT = "corrupt"
    MISSING = "missing"
    QUARANTINED = "quarantined"
    MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. versions: those that it breaks, the first of them."""

    problem: Problem
    digest: str
    versions: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """How far a check is, in blobs and in bytes hashed. done: this is the last word."""

    checked_blobs: int
    checked_bytes: int
    total_blobs: int
    done: bool = False


class Turn(Protocol):
    """A piece of work that this process alone does now, among all on the same database."""

    def confirm(self) -> None:
        """Raise StorageUnavailable where the turn was lost, for example with a connection."""

    def close(self) -> None:
        """Let others have it."""


class Upkeep(Protocol):
    """The part of the catalogue that garbage collection and checks work on.

    A blob is garbage when its row has not been touched since a moment and no version names it. It
    goes in three steps: its row is condemned (from then on nobody can name it or send it), its bytes
    are deleted, its row is removed. Whoever finds a condemned row goes on with the second step.
    """

    def take_turn(self, work: str) -> Turn:
        """The turn to do the work of that name. Raises AlreadyRunning, which says since when."""

    def strays(self, found: Sequence[StoredBlob]) -> list[tuple[StoredBlob, bool]]:
        """Those of the stored blobs that have no row, each with whether a version names it."""

    def adopt(self, found: Sequence[StoredBlob]) -> int:
        """Give those that have no row one, touched when they were stored; how many."""

    def condemned(self, after: str, limit: int) -> list[StoredBlob]:
        """Blobs on their way out, by digest, behind the digest `after`."""

    def unnamed(self, before: datetime, after: str, limit: int) -> list[StoredBlob]:
        """Blobs that are garbage, by digest, behind the digest `after`. Without those on their way out."""

    def condemn(self, digests: Sequence[str], before: datetime) -> list[StoredBlob]:
        """Condemn those that are garbage still, and take them off their namespaces' accounts."""

    def remove(self, digests: Sequence[str]) -> None:
        """Remove the rows of condemned blobs, whose bytes are gone. Writes the audit log."""

    def held(self) -> tuple[int, int]:
        """How many blobs have rows and are not condemned, and their bytes."""

    def forgettable(self, ages: Ages) -> int:
        """How many rows `forget` would remove."""

    def forget(self, ages: Ages, limit: int) -> int:
        """Remove at most so many of each: expired leases, old events, first to last (the newest stays),
        old entries of the audit log; how many were removed.
        """

    def states(self, after: str, limit: int) -> list[BlobState]:
        """Blobs that a row or a version names, by digest, behind the digest `after`."""

    def state(self, digest: str) -> BlobState:
        """What the rows say of one blob."""

    def namers(self, digest: str, limit: int) -> list[str]:
        """Versions that name the blob, `namespace/name@number`."""

    def spoilt_manifests(self, after: int, limit: int) -> tuple[list[tuple[str, str, str]], int]:
        """Look at so many versions behind the position `after`: (digest, `namespace/name@number`,
        digest of its manifest) of those whose manifest is another's, and the next position, 0 at the end.
        """
