from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compute_worker.engine.cover import Cell, Costs, Rectangle, cover

FEATURES = 1000
# A call costs as much as 100 rows of one token.
COSTS = Costs(call=1e5, read=0)


def cell(begin: int, end: int, first: int, last: int, weight: float = 1.0) -> Cell:
    return Cell(begin, end, first, last, weight)


def test_small_neighbours_share_a_product() -> None:
    cells = (cell(0, 1, 0, 4), cell(1, 2, 4, 8))

    assert cover(cells, FEATURES, COSTS) == (Rectangle(0, 2, 0, 8, cells),)


def test_large_chunks_of_different_adapters_do_not() -> None:
    cells = (cell(0, 500, 0, 16), cell(500, 900, 16, 32))

    assert cover(cells, FEATURES, COSTS) == tuple(Rectangle(c.begin, c.end, c.first, c.last, (c,)) for c in cells)


def test_adapters_far_apart_in_the_pool_do_not() -> None:
    cells = (cell(0, 1, 0, 4), cell(1, 2, 4000, 4004))

    assert len(cover(cells, FEATURES, COSTS)) == 2


def test_reading_rows_that_nobody_uses_counts() -> None:
    cells = (cell(0, 1, 0, 4), cell(1, 2, 30, 34))

    assert len(cover(cells, FEATURES, COSTS)) == 1
    assert len(cover(cells, FEATURES, Costs(call=1e5, read=10))) == 2


def test_no_cells_need_no_product() -> None:
    assert cover((), FEATURES, COSTS) == ()


CELLS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 200), st.integers(1, 32), st.floats(-2, 2)), min_size=1, max_size=20
)


@given(CELLS, st.floats(0, 1e6), st.floats(0, 100))
def test_every_cell_is_in_exactly_one_rectangle_that_holds_it(
    drawn: list[tuple[int, int, int, float]], call: float, read: float
) -> None:
    cells, begin = [], 0
    for tokens, first, rank, weight in drawn:
        cells.append(cell(begin, begin + tokens, first, first + rank, weight))
        begin += tokens

    rectangles = cover(cells, FEATURES, Costs(call, read))

    assert [member for rectangle in rectangles for member in rectangle.cells] == cells
    for rectangle in rectangles:
        for member in rectangle.cells:
            assert rectangle.begin <= member.begin < member.end <= rectangle.end
            assert rectangle.first <= member.first < member.last <= rectangle.last
