"""One case from its first repeat to its result.

Owns the turns: ours, then the peer's, again and again. Does not know what a case does, or in what world.
"""

from __future__ import annotations

import sys
from typing import Protocol, TypeVar

from benchmarks import report
from benchmarks.measuring import Claim, Quiet, Result

WorldT_contra = TypeVar("WorldT_contra", contravariant=True)


class Measurable(Protocol[WorldT_contra]):
    """Something to measure in a world. `prepare` is not timed; `ours` and `peer` give one value of repeat `turn`."""

    @property
    def claim(self) -> Claim:
        """What the values mean."""

    async def prepare(self, world: WorldT_contra) -> None:
        """Bring both sides to where they start, warm."""

    async def ours(self, world: WorldT_contra, turn: int) -> float:
        """Lorry's value."""

    async def peer(self, world: WorldT_contra, turn: int) -> float:
        """The peer's value."""


async def run(case: Measurable[WorldT_contra], world: WorldT_contra, repeats: int) -> Result:
    """One case, ours and the peer's value in turns: what disturbs the machine for a while disturbs both."""
    say(f"{case.claim.name}: {case.claim.title} ...")
    await case.prepare(world)
    quiet, ours, peer = Quiet(), [], []
    for turn in range(repeats):
        with quiet.watched():
            ours.append(await case.ours(world, turn))
        with quiet.watched():
            peer.append(await case.peer(world, turn))
        say(f"  ours {report.shown(ours[-1])}, {case.claim.peer} {report.shown(peer[-1])} {case.claim.unit}")
    return Result(case.claim, ours, peer, quiet.share)


def say(text: str) -> None:
    """To whoever waits for the results."""
    print(text, file=sys.stderr, flush=True)
