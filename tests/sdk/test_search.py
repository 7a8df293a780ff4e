"""The candidates of a weight search, without a worker."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorry.errors import InvalidInput
from lorry.search import draws, grid, within

SOURCES = ["a", "b", "c", "d"]


@given(st.integers(1, 4), st.integers(1, 7))
def test_a_grid_is_every_mix_once(sources: int, steps: int) -> None:
    mixes = list(grid(SOURCES[:sources], steps))
    assert len(mixes) == math.comb(steps + sources - 1, steps)
    assert len({tuple(sorted(mix.items())) for mix in mixes}) == len(mixes)
    assert all(math.isclose(sum(mix.values()), 1) and min(mix.values()) > 0 for mix in mixes)


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 9))
def test_random_mixes_are_the_seeds(sources: int, count: int, seed: int) -> None:
    mixes = list(draws(SOURCES[:sources], count, seed))
    assert mixes == list(draws(SOURCES[:sources], count, seed))
    assert len(mixes) == count
    assert all(abs(sum(mix.values()) - 1) < 1e-3 for mix in mixes)
    if sources > 1 and count > 1:
        assert mixes != list(draws(SOURCES[:sources], count, seed + 1))


@given(st.integers(3, 60), st.integers(0, 5))
def test_a_budget_keeps_each_source_alone(budget: int, seed: int) -> None:
    mixes = list(grid(SOURCES[:3], 8))
    kept = within(mixes, budget, seed)
    assert len(kept) == min(budget, len(mixes))
    assert [{source: 1.0} in kept for source in SOURCES[:3]] == [True] * 3
    assert all(mix in mixes for mix in kept)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: list(grid([], 3)),
        lambda: list(grid(["a", "a"], 3)),
        lambda: list(grid(["a"], 0)),
        lambda: list(grid([str(number) for number in range(16)], 20)),
        lambda: list(draws(["a"], 0, 1)),
        lambda: within(grid(SOURCES, 4), 3, 0),
    ],
)
def test_what_cannot_be_tried_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInput):
        wrong()
