"""The registry's nouns as immutable values, and what a page of them is.

Owns the shapes that store, service and rpc exchange. Does not know SQL, the wire, or bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from lorry.format.base import BaseFacts
from lorry.format.compatibility import CarryOver
from lorry.format.facts import AdapterFacts
from lorry.format.manifest import Manifest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is wanted: at most `size` entries behind the one that `token` names."""

    size: int = 100
    token: str = ""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A page of a list. An empty `next_token` means that it was the last."""

    items: tuple[T, ...]
    next_token: str


# Further names of a base: what a page of bases takes has to fit a message.
MAX_KNOWN_AS = 64


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """A registered base model. `derived_from`: base_id of the base that it is a variant of; `carry_over`:
    whether adapters of the bases that it descends from may be served on it.
    """

    name: str
    facts: BaseFacts
    known_as: tuple[str, ...] = ()
    derived_from: str | None = None
    created: datetime | None = None
    carry_over: CarryOver = CarryOver.REFUSE


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version about to be published: everything is checked, all blobs are stored.

    alias: alias to point to it in the same transaction, or None. description and labels are used
    only where the adapter is new. facts: what the verdicts on other bases are computed from.
    signatures: envelopes about it.
    """

    namespace: str
    name: str
    manifest: Manifest
    warnings: tuple[str, ...] = ()
    alias: str | None = None
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    facts: AdapterFacts | None = None
    signatures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A published version, as read under one adapter."""

    namespace: str
    name: str
    number: int
    manifest: Manifest
    digest: str
    created: datetime
    yank_reason: str | None
    aliases: tuple[str, ...]
    warnings: tuple[str, ...]
    signatures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """An adapter with the facts of its newest version that is not yanked (`latest`)."""

    namespace: str
    name: str
    description: str
    labels: dict[str, str]
    created: datetime
    revision: int
    version_count: int
    latest: VersionRecord | None
    aliases: dict[str, str]
    keep_last: int = 0


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """An alias, or one move of it; `digest` None records a deletion."""

    alias: str
    digest: str | None
    number: int
    revision: int
    updated: datetime


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deletion took along. versions: the first 10,000 digests. orphans: digests of children that now
    name a missing parent. leases: holders whose leases were broken.
    """

    versions: tuple[str, ...]
    aliases: tuple[str, ...]
    orphans: tuple[str, ...]
    leases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A version in a lineage. published_as: `namespace/name@number` where the caller may read it. The
    rest is None where that is nowhere: it was deleted, or is another's.
    """

    digest: str
    published_as: tuple[str, ...] = ()
    manifest: Manifest | None = None
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """A version (first of the nodes), what it was made out of and what was made out of it.

    edges: (child, parent) digests. truncated: there is more than was followed.
    """

    nodes: tuple[LineageNode, ...]
    edges: tuple[tuple[str, str], ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A holder's use of a version, until it expires."""

    holder: str
    digest: str
    number: int
    expires: datetime


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a holder's leases are now. missing and yanked: positions in what was asked for."""

    expires: datetime
    missing: tuple[int, ...]
    yanked: tuple[int, ...]


class Expired(NamedTuple):
    """A version that retention let go of."""

    namespace: str
    name: str
    number: int
    digest: str


class EventKind(StrEnum):
    """What happened in the catalogue."""

    BASE_REGISTERED = "base_registered"
    BASE_UPDATED = "base_updated"
    VERSION_CREATED = "version_created"
    VERSION_YANKED = "version_yanked"
    VERSION_DELETED = "version_deleted"
    ALIAS_MOVED = "alias_moved"
    ALIAS_DELETED = "alias_deleted"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the outbox. `digest` is a base_id for BASE_REGISTERED and BASE_UPDATED. number: of the version, or
    the alias's revision for ALIAS_MOVED and ALIAS_DELETED. text: yank reason, or the alias's name.
    """

    sequence: int
    kind: EventKind
    namespace: str
    name: str
    digest: str
    number: int
    text: str
    committed: datetime
