from __future__ import annotations

from collections.abc import Sequence

from compute_worker.contract import ActiveAdapter, Sampling, StepRow
from compute_worker.engine.layout import Run, lay_out

BLOCK = 4
ONE, TWO = ActiveAdapter(0, 4, 1.0), ActiveAdapter(8, 4, 1.0)


def row(
    count: int,
    position: int = 0,
    *,
    blocks: Sequence[int] = (5, 3, 9),
    adapters: Sequence[ActiveAdapter] = (),
    **more: object,
) -> StepRow:
    tokens = [100 * (position + 1) + index for index in range(count)]
    fields: dict[str, object] = {"sample": Sampling(), "context": (), "index": 0} | more
    return StepRow(tokens, position, blocks, tuple(adapters), **fields)  # type: ignore[arg-type] # a builder


def test_decode_rows_come_first_and_chunks_after_them() -> None:
    layout = lay_out([row(3), row(1, 2)], BLOCK)

    assert layout.ids == [300, 100, 101, 102]
    assert layout.positions == [2, 0, 1, 2]


def test_slots_follow_the_requests_own_blocks() -> None:
    layout = lay_out([row(6, 2, blocks=(5, 3))], BLOCK)

    assert layout.slots == [22, 23, 12, 13, 14, 15]


def test_the_rest_of_a_rows_last_block_is_stale() -> None:
    assert lay_out([row(6, blocks=(5, 3))], BLOCK).stale == [14, 15]
    assert lay_out([row(1, 4, blocks=(5, 3))], BLOCK).stale == [13, 14, 15]

    assert lay_out([row(1, 5, blocks=(5, 3))], BLOCK).stale == [14, 15]


def test_nothing_is_stale_behind_a_block_that_is_full() -> None:
    assert lay_out([row(8)], BLOCK).stale == []


def test_a_draft_is_run_behind_the_tokens_and_each_of_it_keeps_its_logits() -> None:
    layout = lay_out([row(1, 2, draft=[7, 8]), row(1, 6)], BLOCK)

    assert layout.ids == [700, 300, 7, 8]
    assert layout.positions == [6, 2, 3, 4]
    assert layout.slots == [14, 22, 23, 12]
    assert (layout.kept, layout.kept_rows) == ([0, 1, 2, 3], [1, 0, 0, 0])


def test_rows_that_do_not_draw_keep_no_logits() -> None:
    layout = lay_out([row(3), row(2, sample=None), row(1, 7)], BLOCK)

    assert layout.kept == [0, 3]
    assert layout.kept_rows == [2, 0]


def test_neighbours_with_the_same_adapters_are_one_run() -> None:
    rows = [row(1, 2, adapters=[TWO]), row(1, 3, adapters=[ONE]), row(1, 1, adapters=[TWO]), row(2, adapters=[ONE])]

    layout = lay_out(rows, BLOCK)

    assert layout.runs == (Run(0, 1, (ONE,)), Run(1, 3, (TWO,)), Run(3, 5, (ONE,)))
    assert layout.kept_runs == (Run(0, 1, (ONE,)), Run(1, 3, (TWO,)), Run(3, 4, (ONE,)))


def test_decode_rows_of_very_different_length_attend_apart() -> None:
    blocks = tuple(range(100))
    layout = lay_out([row(1, 3, blocks=blocks), row(1, 300, blocks=blocks), row(1, 9, blocks=blocks)], BLOCK)

    assert [part.positions for part in layout.parts] == [(3, 9), (300,)]


def test_every_chunk_attends_apart() -> None:
    layout = lay_out([row(3), row(5)], BLOCK)

    assert [(part.begin, part.end, part.chunk) for part in layout.parts] == [(0, 3, True), (3, 8, True)]


def test_nothing_is_laid_out_for_no_rows() -> None:
    assert lay_out([], BLOCK).ids == []
