"""The runtime's vocabulary towards the wire: what a call asks for and what comes back.

Owns immutable values alone. Does not know protobuf, and not how anything is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from compute_worker.contract import CombineMethod, Drawn, PublishedAdapter, Sampling
from compute_worker.runtime.rights import Homes
from lorry.format.facts import Variant


@dataclass(frozen=True, slots=True)
class Weighted:
    """A reference as the caller wrote it, and its weight."""

    adapter: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Resolved:
    """A reference after its one resolution."""

    adapter: str
    digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Stop:
    """When to end. `max_new_tokens` counts the stop token. `strings` and `token_ids` are not sent."""

    max_new_tokens: int = 256
    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """One request. Exactly one of text, chat, tokens is not None. `selection` None: use `route`.

    seed None: the runtime draws one. deadline: on time.monotonic()'s clock, None for none.
    `sampling.seed` is ignored; `seed` counts.
    """

    text: str | None = None
    chat: tuple[tuple[str, str], ...] | None = None
    tokens: tuple[int, ...] | None = None
    selection: tuple[Weighted, ...] | None = None
    route: str = "default"
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stop: Stop = field(default_factory=Stop)
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What serves the request; first of all. `route` is empty where the request named adapters."""

    base_id: str
    adapters: tuple[Resolved, ...]
    route: str
    route_revision: int
    prompt_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that became certain (whole characters; may be empty) and the tokens behind it."""

    text: str
    drawn: tuple[Drawn, ...]


class FinishReason(StrEnum):
    """Why a text ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Finished:
    """The end; last of all. `stop` is the stop string or decoded stop token, or empty."""

    reason: FinishReason
    stop: str
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class RouteState:
    """A route as it is; immutable, replaced as a whole by a switch."""

    name: str
    revision: int
    adapters: tuple[Resolved, ...]
    updated: datetime


class Tier(StrEnum):
    """Where an adapter's weights are. GONE is told to watchers alone."""

    GONE = "gone"
    DISK = "disk"
    HOST = "host"
    POOL = "pool"


@dataclass(frozen=True, slots=True)
class ResidentState:
    """An adapter near the base model, as it is; see Resident in residency.proto for the fields.

    homes: the namespaces that decide who may know of it.
    """

    digest: str
    names: tuple[str, ...]
    tier: Tier
    rank: int
    size: int
    variant: Variant
    leases: int
    pinned: bool
    hits: int
    loads: int
    last_used: datetime
    combined: bool
    homes: Homes = ()


@dataclass(frozen=True, slots=True)
class PublishAs:
    """Where to publish a combination."""

    adapter: str
    alias: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class CombineCall:
    """Sources, method, and where to publish; None: the result stays on this worker."""

    sources: tuple[Weighted, ...]
    method: CombineMethod
    publish: PublishAs | None = None


@dataclass(frozen=True, slots=True)
class Combined:
    """The result. `adapter` is a reference that this worker takes."""

    recipe_digest: str
    adapter: str
    resident: ResidentState
    existed: bool
    published: PublishedAdapter | None


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """A budget and what is used of it."""

    name: str
    limit: int
    used: int
