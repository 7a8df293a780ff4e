"""Where the keys of a step's rows lie, as flash attention asks for it: plain integers.

Owns the arithmetic of the tables alone. Does not know tensors, devices or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from compute_worker.engine.layout import Layout


@dataclass(frozen=True, slots=True)
class Tables:
    """Of the N rows of a step, in its order.

    begins: where the tokens of each begin, and behind the last one, [N + 1]. seen: keys of each, those of its own
    tokens included, [N]. blocks: the KV blocks that hold them, in order, [N, longest of all], filled up with 0.
    """

    begins: list[int]
    seen: list[int]
    blocks: list[list[int]]

    @property
    def queries(self) -> int:
        """Tokens of the row that has most."""
        return max(end - begin for begin, end in zip(self.begins, self.begins[1:], strict=False))


def tables_of(layout: Layout, block_tokens: int) -> Tables:
    """The tables of a step; with one row at least."""
    rows = list(layout.tables())
    begins = [0, *accumulate(tokens for _, tokens in rows)]
    ends = [layout.positions[begin] + tokens for begin, (_, tokens) in zip(begins, rows, strict=False)]
    tables = [taken(blocks, end, block_tokens) for (blocks, _), end in zip(rows, ends, strict=True)]
    width = max(map(len, tables))
    return Tables(begins, ends, [[*table, *[0] * (width - len(table))] for table in tables])


def taken(blocks: Sequence[int], tokens: int, block_tokens: int) -> list[int]:
    """Those of a row's blocks that hold its first `tokens` tokens."""
    return list(blocks[: -(-tokens // block_tokens)])
