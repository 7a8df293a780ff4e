"""Where rows go: contiguous, over the least worthy occupants, never over those that must stay."""

from hypothesis import given, settings
from hypothesis import strategies as st

from compute_worker.runtime.eviction import Worth
from compute_worker.runtime.rows import Occupied, Placement, place, place_all


def old(used: int) -> Worth:
    """Of whoever was used then: as least recently used goes."""
    return (0.0, used)


def test_an_empty_pool_is_filled_from_the_start() -> None:
    assert place(4, 16, []) == Placement(0, ())


def test_the_tightest_gap_is_taken() -> None:
    occupied = [Occupied(0, 4), Occupied(10, 2), Occupied(14, 1)]
    assert place(2, 16, occupied) == Placement(12, ())


def test_the_least_worthy_occupant_makes_room() -> None:
    occupied = [Occupied(0, 4, old(3)), Occupied(4, 4, old(1)), Occupied(8, 8, old(2))]
    assert place(4, 16, occupied) == Placement(4, (4,))


def test_neighbours_are_evicted_together_rather_than_someone_worthier() -> None:
    occupied = [Occupied(0, 2, old(1)), Occupied(2, 2, old(2)), Occupied(4, 4, old(9))]
    assert place(4, 8, occupied) == Placement(0, (0, 2))


def test_a_gap_counts_towards_the_room_beside_it() -> None:
    occupied = [Occupied(0, 2), Occupied(4, 2, old(1)), Occupied(6, 2)]
    assert place(4, 8, occupied) == Placement(2, (4,))


def test_those_that_must_stay_are_not_moved_though_the_sum_would_do() -> None:
    assert place(4, 8, [Occupied(3, 1)]) == Placement(4, ())
    assert place(5, 8, [Occupied(3, 1)]) is None


def test_several_are_placed_all_or_none() -> None:
    assert place_all([2, 6], 8, []) == [Placement(6, ()), Placement(0, ())]
    assert place_all([2, 7], 8, []) is None


def test_several_are_packed_where_sparing_the_worthy_would_leave_no_room() -> None:
    occupied = [Occupied(0, 3, old(9)), Occupied(3, 3, old(1)), Occupied(6, 3, old(2)), Occupied(9, 3, old(9))]
    assert place(6, 12, occupied) == Placement(3, (3, 6))
    assert place_all([6, 5], 12, occupied) == [Placement(0, (0, 3)), Placement(6, (6, 9))]


@st.composite
def pools(draw: st.DrawFn) -> tuple[int, list[Occupied]]:
    occupied, at = [], draw(st.integers(0, 3))
    for used in draw(st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=6)):
        size = draw(st.integers(1, 4))
        occupied.append(Occupied(at, size, None if used is None else old(used)))
        at += size + draw(st.integers(0, 3))
    return at + draw(st.integers(0, 4)), occupied


@settings(deadline=None, derandomize=True)
@given(pools(), st.integers(1, 8))
def test_a_placement_is_found_exactly_where_there_is_one(pool: tuple[int, list[Occupied]], size: int) -> None:
    total, occupied = pool
    fixed = {row for taken in occupied if taken.worth is None for row in range(taken.start, taken.end)}
    possible = any(fixed.isdisjoint(range(start, start + size)) for start in range(total - size + 1))
    found = place(size, total, occupied)
    assert (found is not None) == possible
    if found is not None:
        rows = set(range(found.start, found.start + size))
        assert max(rows) < total
        hit = [taken for taken in occupied if rows & set(range(taken.start, taken.end))]
        assert sorted(taken.start for taken in hit) == list(found.evicted)
        assert all(taken.worth is not None for taken in hit)


@settings(deadline=None, derandomize=True)
@given(pools(), st.integers(1, 8))
def test_no_other_range_would_spare_whom_this_one_evicts(pool: tuple[int, list[Occupied]], size: int) -> None:
    total, occupied = pool
    found = place(size, total, occupied)
    if found is None:
        return
    worthiest = max((taken.worth or old(0) for taken in occupied if taken.start in found.evicted), default=old(-1))
    for start in range(total - size + 1):
        hit = [taken for taken in occupied if taken.start < start + size and start < taken.end]
        if all(taken.worth is not None for taken in hit):
            assert worthiest <= max((taken.worth or old(0) for taken in hit), default=old(-1))


@settings(deadline=None, derandomize=True)
@given(pools(), st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_several_never_overlap_each_other_or_those_that_must_stay(
    pool: tuple[int, list[Occupied]], sizes: list[int]
) -> None:
    total, occupied = pool
    placements = place_all(sizes, total, occupied)
    if placements is None:
        fixed = [taken for taken in occupied if taken.worth is None]
        assert fixed or sum(sizes) > total
        return
    gone = {start for placement in placements for start in placement.evicted}
    assert all(taken.worth is not None for taken in occupied if taken.start in gone)
    rows = [row for taken in occupied if taken.start not in gone for row in range(taken.start, taken.end)]
    for placement, size in zip(placements, sizes, strict=True):
        rows += range(placement.start, placement.start + size)
    assert len(rows) == len(set(rows))
    assert max(rows) < total
