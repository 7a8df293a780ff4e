"""A route as a value: its state, the choices behind it, and what it was before.

Owns how one revision follows from another. Does not know how adapters become resident, nor where
routes are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from compute_worker.runtime.api import Branch, Resolved, RouteChange, RouteState, RouteTarget
from compute_worker.runtime.rights import Rights
from compute_worker.runtime.version import Choice, Version
from lorry.errors import NoEarlierVersion
from lorry.format.reference import Reference, parse_reference

DEFAULT = "default"
# Revisions that a route remembers. A state takes some hundred bytes on disk, and all of them are written anew
# after as many changes: 50 are the switches of a fortnight, and take a millisecond.
KEPT = 50

# A selection for each branch.
Choices = tuple[tuple[Choice, ...], ...]


@dataclass(frozen=True, slots=True)
class Route:
    """What callers see, and the choices behind it: None after a restart, until they are resident again.

    history: the revisions that are kept, oldest first, the present one last. held: versions that the
    pool keeps for it.
    """

    history: tuple[RouteState, ...]
    choices: Choices | None
    held: tuple[Version, ...] = ()

    @property
    def state(self) -> RouteState:
        """The present revision."""
        return self.history[-1]

    def past(self, revision: int) -> RouteState:
        """An earlier revision, 0: the one before the present. Raises NoEarlierVersion where it is not kept."""
        before = self.history[:-1]
        found = [state for state in before if state.revision == revision] if revision else before[-1:]
        if not found:
            kept = ", ".join(str(state.revision) for state in before) or "none"
            raise NoEarlierVersion(
                f"route {self.state.name}: expected an earlier revision that is kept ({kept}), got {revision}"
            )
        return found[0]


def base_alone(name: str) -> Route:
    """A route to the base model, revision 1."""
    return Route((RouteState(name, 1, (Branch("1", 1.0, ()),), datetime.now(UTC)),), ((),))


def after(
    before: Route | None,
    name: str,
    shape: Sequence[RouteTarget | Branch],
    choices: Choices,
    change: RouteChange,
    by: Rights | None,
) -> Route:
    """The next revision of a route, with the names and shares of `shape`; the first where there was none.

    by: whose change it is, None: the worker's, who does as the one before might.
    """
    branches = tuple(
        Branch(part.name, part.share, tuple(choice.resolved for choice in chosen))
        for part, chosen in zip(shape, choices, strict=True)
    )
    revision = before.state.revision + 1 if before else 1
    homes = dict.fromkeys(group for chosen in choices for choice in chosen for group in choice.homes)
    boundless = by.boundless if by else before is None or before.state.boundless
    principal = by.holder if by else ""
    state = RouteState(name, revision, branches, datetime.now(UTC), change, principal, tuple(homes), boundless)
    return Route(((*before.history, state) if before else (state,))[-KEPT:], choices, versions_of(choices))


def versions_of(choices: Choices) -> tuple[Version, ...]:
    """Each version of the choices once."""
    return tuple({choice.version.digest: choice.version for chosen in choices for choice in chosen}.values())


def exact(adapter: Resolved) -> Reference:
    """What was resolved, by its digest."""
    return replace(parse_reference(adapter.adapter), number=None, alias=None, digest=adapter.digest)


def frozen(branch: Branch) -> Branch:
    """A branch that follows nothing: names and aliases are digests."""
    return replace(
        branch,
        adapters=tuple(
            replace(adapter, adapter=str(exact(adapter))) if follows(adapter) else adapter
            for adapter in branch.adapters
        ),
    )


def follows(adapter: Resolved) -> bool:
    """Whether it was written with a name or an alias, whose meaning may move."""
    reference = parse_reference(adapter.adapter)
    return reference.digest is None and reference.number is None


def moved(branch: Branch, reference: Reference, digest: str) -> Branch:
    """The branch with another meaning of a name."""
    return replace(
        branch,
        adapters=tuple(
            replace(adapter, digest=digest) if parse_reference(adapter.adapter) == reference else adapter
            for adapter in branch.adapters
        ),
    )


def selection_digest(adapters: Sequence[Resolved]) -> str:
    """What stands for a selection in metrics: `base`, the digest of a single adapter, else that of all and weights."""
    match adapters:
        case []:
            return "base"
        case [Resolved(digest=digest, weight=1.0)]:
            return digest
    spelled = json.dumps(sorted([adapter.digest, adapter.weight] for adapter in adapters))
    return f"sha256:{hashlib.sha256(spelled.encode()).hexdigest()}"
