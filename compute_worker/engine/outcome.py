"""From a step's logits to what each of its rows gets: a token that was drawn, or the scores of given ones.

Owns which line of the logits is whose, and how wide it is. Does not know how a token is drawn, nor what ran
the forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from compute_worker.contract import Computed, Drawn, Scored, StepRow
from compute_worker.engine.executor import Scores
from compute_worker.engine.sampler import draw, is_plain


def needs_logits(row: StepRow) -> bool:
    """Whether more than the most probable token is asked for."""
    return bool(row.targets) or row.allowed is not None or not is_plain(row.sample)


def outcome(rows: Sequence[StepRow], kept_rows: Sequence[int], needed: Sequence[int], scores: Scores) -> list[Computed]:
    """One entry a row. kept_rows: the row of each kept token; needed: those of them that `scores` has logits of."""
    computed: list[Computed] = [None] * len(rows)
    draws: dict[int, list[Drawn]] = defaultdict(list)
    owners = [kept_rows[index] for index in needed]
    drawing = [line for line, row in enumerate(owners) if not rows[row].targets]
    for lines, logits in _by_width(drawing, scores):
        asking = [_behind(rows[owners[line]], needed[line] - kept_rows.index(owners[line])) for line in lines]
        for line, drawn in zip(lines, draw(logits, asking), strict=True):
            draws[owners[line]].append(drawn)
    for row, group in groupby(range(len(owners)), owners.__getitem__):
        if rows[row].targets:
            ((_, logits),) = _by_width(list(group), scores)
            computed[row] = score(logits, rows[row].targets)
    plain = sorted(set(range(len(kept_rows))).difference(needed))
    for index, token in zip(plain, scores.best, strict=True):
        draws[kept_rows[index]].append(Drawn(token))
    for row, in_order in draws.items():
        computed[row] = _right(rows[row].draft, in_order)
    return computed


def _behind(row: StepRow, place: int) -> StepRow:
    """The row as it draws behind the first `place` tokens of its draft, where they were right."""
    if not place:
        return row
    return replace(row, context=[*row.context, *row.draft[:place]], index=row.index + place)


def _right(draft: Sequence[int], drawn: Sequence[Drawn]) -> Computed:
    """What counts of the draws behind a row's last token and behind each token of its draft."""
    if not draft:
        return drawn[0]
    pairs = enumerate(zip(draft, drawn, strict=False))
    return tuple(drawn[: 1 + next((at for at, (guess, each) in pairs if guess != each.token), len(draft))])


def _by_width(lines: Sequence[int], scores: Scores) -> Iterator[tuple[Sequence[int], Tensor]]:
    """The lines of each width with their logits: a row's do not depend on how wide its neighbours' are."""
    if scores.widths is None:
        yield lines, scores.logits if len(lines) == len(scores.logits) else scores.logits[list(lines)]
        return
    for width in sorted({scores.widths[line] for line in lines}):
        alike = [line for line in lines if scores.widths[line] == width]
        yield alike, scores.logits[alike, :width]


def score(logits: Tensor, targets: Sequence[int]) -> Scored:
    """How likely each target is behind its own line of logits [targets, vocabulary]."""
    logits = logits.float()
    ids = torch.tensor(targets, device=logits.device)
    natural = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
    return Scored(tuple(natural.tolist()), tuple((logits.argmax(1) == ids).tolist()))
