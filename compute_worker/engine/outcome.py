"""From a step's logits to what each of its rows gets: a token that was drawn, or the scores of given ones.

Owns which line of the logits is whose. Does not know how a token is drawn, nor what ran the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    owners = [kept_rows[index] for index in needed]
    drawing = [line for line, row in enumerate(owners) if not rows[row].targets]
    logits = scores.logits if len(drawing) == len(owners) else scores.logits[drawing]
    for line, drawn in zip(drawing, draw(logits, [rows[owners[line]] for line in drawing]), strict=True):
        computed[owners[line]] = drawn
    for row, group in groupby(range(len(owners)), owners.__getitem__):
        if rows[row].targets:
            computed[row] = score(scores.logits[list(group)], rows[row].targets)
    plain = sorted(set(range(len(kept_rows))).difference(needed))
    for index, token in zip(plain, scores.best, strict=True):
        computed[kept_rows[index]] = Drawn(token)
    return computed


def score(logits: Tensor, targets: Sequence[int]) -> Scored:
    """How likely each target is behind its own line of logits [targets, vocabulary]."""
    logits = logits.float()
    ids = torch.tensor(targets, device=logits.device)
    natural = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
    return Scored(tuple(natural.tolist()), tuple((logits.argmax(1) == ids).tolist()))
