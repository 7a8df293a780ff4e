"""Which branch of a route serves whom, and what makes a list of branches one.

Owns weighted rendezvous hashing: for a key every branch draws a number, out of a hash of route, branch
and key alone, and the first by share wins. So a key stays where it is until its own branch shrinks or
another one grows; nothing is remembered. Does not know what a key is, nor what a branch serves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from compute_worker.runtime.api import Branch, RouteTarget
from lorry.errors import InvalidSelection
from lorry.format.reference import check_name

# All adapters of all branches are in the pool as long as the route is; nobody was seen to try more at once.
MAX_BRANCHES = 16
_HASHES = 2**64


def checked(targets: Sequence[RouteTarget]) -> tuple[RouteTarget, ...]:
    """The targets, each with its name. Raises InvalidSelection, InvalidName."""
    if not 1 <= len(targets) <= MAX_BRANCHES:
        raise InvalidSelection(
            f"expected 1 to {MAX_BRANCHES} targets (an empty selection is the base model alone), got {len(targets)}"
        )
    named = tuple(replace(target, name=target.name or str(place)) for place, target in enumerate(targets, 1))
    for target in named:
        check_name(target.name, "branch")
        if not (math.isfinite(target.share) and target.share > 0):
            raise InvalidSelection(f"share of branch {target.name}: expected a number above 0, got {target.share}")
    if len({target.name for target in named}) < len(named):
        raise InvalidSelection(f"expected another name for each branch, got {[target.name for target in named]}")
    return named


def side(route: str, branches: Sequence[Branch], key: str) -> int:
    """The place of the branch that serves this key."""
    # An exponential draw of rate `share` for each: the smallest is a branch's with probability share / sum of shares.
    draws = [-math.log(_uniform(route, branch.name, key)) / branch.share for branch in branches]
    return draws.index(min(draws))


def _uniform(route: str, branch: str, key: str) -> float:
    """A number in (0, 1). Names have no NUL, so that no two triples are spelled alike."""
    spelled = f"{route}\0{branch}\0{key}".encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(hashlib.blake2b(spelled, digest_size=8).digest())
    return (drawn + 0.5) / _HASHES
