"""Where an adapter's rows go in the rank pool, and who has to make room for them.

Owns the choice of a contiguous range. Pure arithmetic over ranges: does not know adapters, tiers or
why an occupant must stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compute_worker.runtime.eviction import Worth

# Of a range where nobody lies: below everybody's.
_FREE: Worth = (float("-inf"), -1)


@dataclass(frozen=True, slots=True)
class Occupied:
    """Rows [start, start + size) are taken. `worth`: the smaller, the sooner it goes; None: must stay."""

    start: int
    size: int
    worth: Worth | None = None

    @property
    def end(self) -> int:
        """The row behind the last."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Placement:
    """Rows from `start` on, free once the occupants that begin at `evicted` are gone."""

    start: int
    evicted: tuple[int, ...]


def place(size: int, total: int, occupied: Sequence[Occupied]) -> Placement | None:
    """A range of `size` rows among `total`, None where those that must stay leave no such gap.

    The range whose worthiest occupant is worth the least is chosen (a free range before any other), then the
    one with the fewest occupants, then the tightest gap. Evicting whatever lies in one range, and not the
    least worthy anywhere, is what keeps a fragmented pool usable.
    """
    # Any range can slide left until it meets the start of the pool or the end of an occupant, and
    # frees no more on the way: so these beginnings are all that need to be looked at.
    starts = [0, *(taken.end for taken in occupied)]
    ranked = [found for start in starts if (found := _judge(start, size, total, occupied)) is not None]
    return min(ranked, key=lambda found: (found[0], found[1].start))[1] if ranked else None


def place_all(sizes: Sequence[int], total: int, occupied: Sequence[Occupied]) -> list[Placement] | None:
    """Ranges for several adapters at once, in the order of `sizes`; None where they were not all placed.

    Where sparing the worthy leaves no room for all, they are packed as if nobody lay there
    but those that must stay. With nobody in the way that fits whenever the sum does.
    """
    found = _in_turn(sizes, total, occupied)
    if found is not None:
        return found
    packed = _in_turn(sizes, total, [taken for taken in occupied if taken.worth is None])
    if packed is None:
        return None
    idle = [taken for taken in occupied if taken.worth is not None]
    return [_over(placement.start, size, idle) for placement, size in zip(packed, sizes, strict=True)]


def _in_turn(sizes: Sequence[int], total: int, occupied: Sequence[Occupied]) -> list[Placement] | None:
    taken = list(occupied)
    placements: dict[int, Placement] = {}
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):  # the largest is the hardest to place
        found = place(sizes[index], total, taken)
        if found is None:
            return None
        placements[index] = found
        taken = [other for other in taken if other.start not in found.evicted]
        taken.append(Occupied(found.start, sizes[index]))
    return [placements[index] for index in range(len(sizes))]


def _over(start: int, size: int, idle: Sequence[Occupied]) -> Placement:
    inside = [taken.start for taken in idle if taken.start < start + size and start < taken.end]
    return Placement(start, tuple(sorted(inside)))


def _judge(
    start: int, size: int, total: int, occupied: Sequence[Occupied]
) -> tuple[tuple[Worth, int, int], Placement] | None:
    end = start + size
    if end > total:
        return None
    inside = [taken for taken in occupied if taken.start < end and start < taken.end]
    worthiest = _FREE
    for taken in inside:
        if taken.worth is None:
            return None
        worthiest = max(worthiest, taken.worth)
    evicted = tuple(sorted(taken.start for taken in inside))
    gap_end = min((taken.start for taken in occupied if taken.start >= end), default=total)
    return (worthiest, len(inside), gap_end - end), Placement(start, evicted)
