"""The runtime's vocabulary towards the wire: what a call asks for and what comes back.

Owns immutable values alone. Does not know protobuf, and not how anything is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from compute_worker.combination import CombineMethod, Deviation
from compute_worker.contract import Drawn, PublishedAdapter, Sampling
from compute_worker.runtime.rights import Homes
from compute_worker.wording import Constraint
from lorry.format.facts import Variant


@dataclass(frozen=True, slots=True)
class Weighted:
    """A reference as the caller wrote it, and its weight."""

    adapter: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """A branch that a route is to get. An empty name means its place, from 1 up; see RouteTarget in inference.proto."""

    selection: tuple[Weighted, ...]
    share: float = 1.0
    name: str = ""


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

    route empty: what the session has, else `default`. affinity, session: empty for none. scale: on all
    weights. follow: the session takes what its target means now. seed None: the runtime draws one.
    deadline: on time.monotonic()'s clock, None for none. begin_within: seconds that it may wait until it
    runs. `sampling.seed` is ignored; `seed` counts. tenant: who shares fairly with others, where callers
    are not known by name. priority: among the tenant's own. stream_interval: tokens that may wait for each other.
    """

    text: str | None = None
    chat: tuple[tuple[str, str], ...] | None = None
    tokens: tuple[int, ...] | None = None
    selection: tuple[Weighted, ...] | None = None
    route: str = ""
    affinity: str = ""
    scale: float = 1.0
    session: str = ""
    follow: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stop: Stop = field(default_factory=Stop)
    deadline: float | None = None
    begin_within: float | None = None
    tenant: str = ""
    priority: int = 0
    constraint: Constraint | None = None
    stream_interval: int = 1


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """A prompt as in GenerateCall, and what may follow: exactly one of continuation and continuation_tokens."""

    text: str | None = None
    chat: tuple[tuple[str, str], ...] | None = None
    tokens: tuple[int, ...] | None = None
    continuation: str | None = None
    continuation_tokens: tuple[int, ...] | None = None
    selection: tuple[Weighted, ...] | None = None
    route: str = "default"


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """Items to score. deadline, tenant, priority: as in GenerateCall, for all of them."""

    items: tuple[ScoreItem, ...]
    deadline: float | None = None
    tenant: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ItemScore:
    """How likely an item's continuation is: natural log-probabilities by token, and whether each was the likeliest.

    tokenizer, inactive: as of Started.
    """

    index: int
    base_id: str
    adapters: tuple[Resolved, ...]
    route: str
    route_revision: int
    prompt_tokens: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    tokenizer: str = ""
    inactive: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """What serves the request; first of all. `route` is empty where the request named adapters.

    cached_tokens: of the prompt, found in the KV cache so far. tokenizer: digest of the files of the adapter
    whose tokenizer or chat template serves, empty for the base's. inactive: digests of the activated LoRAs
    that the prompt does not invoke.
    """

    base_id: str
    adapters: tuple[Resolved, ...]
    route: str
    route_revision: int
    prompt_tokens: int
    seed: int
    branch: str = ""
    new_session: bool = False
    cached_tokens: int = 0
    tokenizer: str = ""
    inactive: tuple[str, ...] = ()


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
    """The end; last of all. `stop` is the stop string or decoded stop token, or empty.

    cached_tokens: of the prompt, found in the KV cache and not computed for this request.
    """

    reason: FinishReason
    stop: str
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch of a route as it is. share: relative to the others."""

    name: str
    share: float
    adapters: tuple[Resolved, ...]


class RouteChange(StrEnum):
    """How a route came to its branches."""

    SWITCH = "switch"
    FOLLOW = "follow"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class RouteState:
    """A route at one revision; immutable, replaced as a whole by every change.

    principal: who changed it; empty where the worker did, or has no access control. homes: the namespaces that decide
    who may know of it, and use it. boundless: its rows may be as many as there are, whatever it follows.
    """

    name: str
    revision: int
    branches: tuple[Branch, ...]
    updated: datetime
    change: RouteChange = RouteChange.SWITCH
    principal: str = ""
    homes: Homes = ()
    boundless: bool = True

    @property
    def adapters(self) -> tuple[Resolved, ...]:
        """Those of all branches, one after the other."""
        return tuple(adapter for branch in self.branches for adapter in branch.adapters)


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
    """Sources, method, and where to publish; None: the result stays on this worker. dry_run: see the proto."""

    sources: tuple[Weighted, ...]
    method: CombineMethod
    publish: PublishAs | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Dry:
    """What a combination would be: largest rank, bytes of its files, and how far it is from the exact sum."""

    rank: int
    size: int
    deviation: Deviation


@dataclass(frozen=True, slots=True)
class Combined:
    """The result. `adapter` is a reference that this worker takes.

    After a dry run `dry` says what it would be, `resident` is None and `adapter` empty.
    """

    recipe_digest: str
    adapter: str
    resident: ResidentState | None
    existed: bool
    published: PublishedAdapter | None = None
    dry: Dry | None = None


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """A budget and what is used of it."""

    name: str
    limit: int
    used: int
