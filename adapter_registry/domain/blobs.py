"""Whose bytes are whose: the ledger of blobs, kept beside the catalogue.

Owns what a ledger promises and the words for what it lacks. A blob is there for a caller once its row
is: live (not being swept, not damaged), and within the caller's reach. Within reach is what the
namespace that the caller works in has claimed, and what a namespace that the caller may read has
claimed or published. Whoever acts is `domain.acting.actor()`. Does not know the store of the bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from lorry.errors import BlobBeingSwept, MissingBlobs

# Being asked for begins a blob's grace anew, but is not worth a write each time: `touched` may be so much older
# than the last question, and who counts the grace from it adds as much.
TOUCH_EVERY = timedelta(minutes=5)
# Digests that a message lists.
_LISTED = 20


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """A blob. size: bytes; blocks: BLAKE3 of each MiB, side by side, None where not known yet; damaged: its
    bytes were put aside and have to be sent again.
    """

    digest: str
    size: int
    blocks: bytes | None
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """What is said before the first byte of an upload. known: the blob where it is within reach, else None, and
    its bytes have to come. metered: they need a reservation first, since the namespace has a limit of bytes.
    """

    known: BlobRecord | None
    metered: bool


class Reservation(NamedTuple):
    """What an upload's room in its namespace's quota is known by. place: tells uploads of one digest apart, a
    process numbers its own from 0; so one that goes on behind a crash finds what it had.
    """

    namespace: str
    digest: str
    place: int


class Ledger(Protocol):
    """Rows of blobs and the claims on them. Every method is one transaction and may be called from any
    thread; each raises StorageUnavailable where the database cannot be reached.
    """

    def present(self, digests: Sequence[str], namespace: str) -> set[str]:
        """Those that are live and within reach of the namespace; their grace begins anew."""

    def find(self, digests: Sequence[str], namespace: str = "") -> dict[str, BlobRecord]:
        """Those that are live or damaged, and within reach, with what is known of them, by digest."""

    def admit(self, digest: str, size: int, namespace: str) -> Admission:
        """Before the first byte.

        Raises BlobBeingSwept, and QuotaExceeded where the claim on a known blob would be too much.
        """

    def reserve(self, held: Reservation, size: int) -> None:
        """Count these bytes for the namespace until they are recorded or released, in the place of what the
        same reservation counted; or until nobody reserved them anew for a while (see domain.garbage.Ages).

        Raises QuotaExceeded.
        """

    def release(self, held: Reservation, kept: int) -> None:
        """The upload broke off: of what was reserved the store keeps so many bytes."""

    def reserves(self, digest: str, namespace: str) -> bool:
        """Whether anything is reserved for uploads of the digest."""

    def trim(self, digest: str, namespace: str, kept: int, running: Collection[int], began: datetime) -> None:
        """Of uploads of the digest in other places than these, and not begun since, the store keeps at most so many
        bytes each.
        """

    def record(
        self, digest: str, size: int, blocks: bytes | None, namespace: str, held: Reservation | None = None
    ) -> None:
        """Behind the last byte: the bytes are durable in the store, the namespace claims them. held: ends with it.

        blocks: of bytes that came now, None where the stored ones were not needed again. A damaged
        blob is live again. Raises BlobBeingSwept, QuotaExceeded; then nothing is written.
        """

    def know_blocks(self, digest: str, blocks: bytes) -> None:
        """Keep the blocks of a blob that had none."""

    def note_damage(self, digest: str, began: datetime) -> None:
        """The stored bytes were damaged and are out of sight: not live until they are sent again.

        Nothing happens where they were since the moment `began`.
        """


def missing_blobs(digests: Sequence[str]) -> MissingBlobs:
    """The error that lists them."""
    more = f" and {len(digests) - _LISTED} more" if len(digests) > _LISTED else ""
    return MissingBlobs(f"expected every file's blob to be stored, missing are {', '.join(digests[:_LISTED])}{more}")


def being_swept(digest: str) -> BlobBeingSwept:
    """The error for a blob whose bytes are on their way out."""
    return BlobBeingSwept(f"blob {digest} is being deleted, since nothing named it: send it again in a moment")
