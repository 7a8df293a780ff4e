"""Drafts behind the rows of a step that has room for them (speculative decoding, arXiv 2211.17192).

Owns how the room is shared: rows alike, an earlier one's rest for the later ones. A draft changes what a step
costs and never what is drawn: the engine draws behind each of its tokens as it would have without it, from the
same random numbers. Does not know where drafts come from, nor when a step has room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from compute_worker.runtime.job import Job, Planned


def drafted(planned: Sequence[Planned], tokens: int, cover: Callable[[Job, int], bool]) -> list[Planned]:
    """The same rows, with drafts as long as the step has fewer than `tokens` tokens.

    cover: gives a request blocks for so many tokens, or says that there are none.
    """
    room = tokens - len(planned)
    rows = []
    for left, (job, row) in zip(range(len(planned), 0, -1), planned, strict=True):
        draft = _draft(job, room // left, cover)
        room -= len(draft)
        rows.append((job, replace(row, draft=draft, blocks=tuple(job.blocks)) if draft else row))
    return rows


def _draft(job: Job, most: int, cover: Callable[[Job, int], bool]) -> Sequence[int]:
    most = min(most, job.max_new - job.drawn - 1)
    if job.lookup is None or most < 1:
        return ()
    draft = job.lookup.draft(job.context, most)
    return draft if cover(job, 1 + len(draft)) else ()
