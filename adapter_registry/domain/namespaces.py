"""Namespaces: a tenant's limits, policy and use.

Owns the values and what a book of namespaces promises. A namespace that nobody wrote to has no limits
and holds nothing. Does not know SQL, the wire, or what a key is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from adapter_registry.domain.records import Listing, Page
from lorry.errors import QuotaExceeded


@dataclass(frozen=True, slots=True)
class NamespaceRecord:
    """Limits are 0 where there are none. trusted_keys: PEM. used_bytes: of its claims, each blob once; uploading_bytes:
    of uploads that are not finished, counted where there is a limit.
    """

    name: str
    max_bytes: int = 0
    max_versions: int = 0
    trusted_keys: tuple[str, ...] = ()
    used_bytes: int = 0
    uploading_bytes: int = 0
    used_versions: int = 0
    adapter_count: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True)
class NamespaceChange:
    """What to write; None for what stays. revision: the one that must be stored, None for any."""

    name: str
    max_bytes: int | None = None
    max_versions: int | None = None
    trusted_keys: tuple[str, ...] | None = None
    revision: int | None = None


class Namespaces(Protocol):
    """Every method is one transaction, may be called from any thread, and raises StorageUnavailable
    where the database cannot be reached.
    """

    def get_namespace(self, name: str) -> NamespaceRecord:
        """Without limits, use and revision where nobody wrote to it."""

    def list_namespaces(self, names: frozenset[str] | None, page: Page) -> Listing[NamespaceRecord]:
        """Those that hold something or were changed, by name; of these `names` alone, None for all.

        Raises InvalidPageToken.
        """

    def update_namespace(self, change: NamespaceChange) -> NamespaceRecord:
        """Write; made where there is none. Limits below what is used stop what comes, and take nothing
        away. Raises RevisionConflict.
        """


def over_quota(namespace: str, what: str, *, limit: int, used: int, asked: int) -> QuotaExceeded:
    """The error for `asked` more of what (`bytes`, `versions`) than the namespace may have."""
    return QuotaExceeded(
        f"namespace {namespace!r}: expected at most {limit} {what}, it has {used} and {asked} more were asked for",
        limit=str(limit),
        used=str(used),
        asked=str(asked),
    )
