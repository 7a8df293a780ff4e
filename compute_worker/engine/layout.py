"""How the rows of a step lie end to end: one flattened sequence of tokens for the whole batch.

Owns the order of rows (decode rows first, of like length, then by adapters) and every index that
follows from it, as plain integers. Does not know tensors, layers or what adapters do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from compute_worker.contract import ActiveAdapter, StepRow

# Decode rows are padded to the longest of their class. Below this many blocks a class of its own costs more
# (another call a layer) than the padding; above, a class spans a factor of two.
_SHORT_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens [begin, end) of the step that use the same adapters."""

    begin: int
    end: int
    adapters: tuple[ActiveAdapter, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens [begin, end) whose attention is one call: decode rows side by side, or one chunk of a prompt.

    positions: of the first token of each row. blocks: the KV blocks of each row.
    """

    begin: int
    end: int
    positions: tuple[int, ...]
    blocks: tuple[Sequence[int], ...]
    chunk: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """A step, flattened.

    ids, positions, slots: of each token; a slot is block * block_tokens + offset. stale: slots of each row's
    last block behind its end: others, or wrong drafts, may have left anything there. parts: cover all tokens.
    runs: likewise. kept: tokens whose logits are needed, ascending; kept_rows: the row of each, again for each
    target or token of a draft; kept_runs: runs over `kept`.
    """

    ids: list[int]
    positions: list[int]
    slots: list[int]
    stale: list[int]
    parts: tuple[Part, ...]
    runs: tuple[Run, ...]
    kept: list[int]
    kept_rows: list[int]
    kept_runs: tuple[Run, ...]

    def tables(self) -> Iterator[tuple[Sequence[int], int]]:
        """The KV blocks of each row, and its tokens, in the order of the step."""
        for part in self.parts:
            for blocks in part.blocks:
                yield blocks, (part.end - part.begin) // len(part.blocks)


def lay_out(rows: Sequence[StepRow], block_tokens: int) -> Layout:
    """Lay rows end to end."""
    order = sorted(range(len(rows)), key=lambda index: _place(rows[index], block_tokens))
    ordered = [rows[index] for index in order]
    begins = _begins(ordered)
    kept = [
        (token, index, row)
        for begin, index, row in zip(begins, order, ordered, strict=True)
        for token in range(begin + len(row.ids) - _wanted(row), begin + len(row.ids))
    ]
    return Layout(
        ids=[token for row in ordered for token in row.ids],
        positions=[position for row in ordered for position in range(row.position, _end(row))],
        slots=[slot for row in ordered for slot in _slots(row, block_tokens)],
        stale=[slot for row in ordered for slot in _stale(row, block_tokens)],
        parts=tuple(_parts(ordered, begins, block_tokens)),
        runs=tuple(_runs((row.adapters, len(row.ids)) for row in ordered)),
        kept=[token for token, _, _ in kept],
        kept_rows=[index for _, index, _ in kept],
        kept_runs=tuple(_runs((row.adapters, 1) for _, _, row in kept)),
    )


def _wanted(row: StepRow) -> int:
    """How many of its last tokens have logits that are needed."""
    if row.targets:
        return len(row.targets)
    return 0 if row.sample is None else 1 + len(row.draft)


def _place(row: StepRow, block_tokens: int) -> tuple[object, ...]:
    return (
        len(row.ids) > 1,
        _length_class(row, block_tokens),
        [(adapter.start, adapter.rank, adapter.weight) for adapter in row.adapters],
    )


def _length_class(row: StepRow, block_tokens: int) -> int:
    return max(_end(row) // block_tokens, _SHORT_BLOCKS).bit_length()


def _begins(rows: Iterable[StepRow]) -> list[int]:
    begins, begin = [], 0
    for row in rows:
        begins.append(begin)
        begin += len(row.ids)
    return begins


def _end(row: StepRow) -> int:
    return row.position + len(row.ids)


def _slots(row: StepRow, block_tokens: int) -> Iterator[int]:
    position, end = row.position, _end(row)
    while position < end:
        block, offset = divmod(position, block_tokens)
        count = min(block_tokens - offset, end - position)
        first = row.blocks[block] * block_tokens + offset
        yield from range(first, first + count)
        position += count


def _stale(row: StepRow, block_tokens: int) -> range:
    """The rest of the row's last block."""
    block, offset = divmod(_end(row), block_tokens)
    if offset == 0:
        return range(0)
    first = row.blocks[block] * block_tokens
    return range(first + offset, first + block_tokens)


def _parts(rows: list[StepRow], begins: list[int], block_tokens: int) -> Iterator[Part]:
    def key(pair: tuple[int, StepRow]) -> tuple[int, int]:
        begin, row = pair
        return (begin, 0) if len(row.ids) > 1 else (-1, _length_class(row, block_tokens))

    for _, group in groupby(zip(begins, rows, strict=True), key):
        pairs = list(group)
        begin, last = pairs[0][0], pairs[-1]
        yield Part(
            begin,
            last[0] + len(last[1].ids),
            tuple(row.position for _, row in pairs),
            tuple(row.blocks for _, row in pairs),
            chunk=len(last[1].ids) > 1,
        )


def _runs(uses: Iterable[tuple[tuple[ActiveAdapter, ...], int]]) -> Iterator[Run]:
    begin = 0
    for adapters, group in groupby(uses, lambda use: use[0]):
        end = begin + sum(count for _, count in group)
        yield Run(begin, end, adapters)
        begin = end
