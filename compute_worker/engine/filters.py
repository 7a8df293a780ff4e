"""Which tokens a row may draw: temperature, top-k, top-p and min-p over many rows at once.

Owns the order of the filters (transformers' order) and how few tokens are looked at for them. What a row keeps
depends on that row alone: lines that lie in one matrix are computed as each would be by itself. Does not know
random numbers, penalties or requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compute_worker.contract import Sampling

# How many of the likeliest tokens are looked at first, and next where these were not enough: most nuclei end
# within 64, nearly all within 1,024. To find 64 of 49,152 takes a quarter of finding 1,024, a fiftieth of sorting.
_LOOKS = (64, 1024)
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Survivors:
    """What is left of some lines of a batch.

    lines: which. scores [lines, tokens]: behind the temperature, the largest 0; -inf for what is not drawn.
    ids [lines, tokens]: of these tokens, ascending in each line; None where they are the whole vocabulary.
    """

    lines: Sequence[int]
    scores: Tensor
    ids: Tensor | None


def lines_of(matrix: Tensor, lines: Sequence[int]) -> Tensor:
    """Some lines of a matrix, in ascending order; a view where they are neighbours, which most are."""
    first, behind = lines[0], lines[-1] + 1
    if behind - first == len(lines):
        return matrix[first:behind]
    return matrix.index_select(0, torch.tensor(lines, device=matrix.device))


def survivors(scores: Tensor, samplings: Sequence[Sampling]) -> Iterator[Survivors]:
    """Every line of scores [lines, vocabulary] once, filtered as its sampling says. Temperatures are above 0."""
    scores = _tempered(scores, samplings)
    vocabulary = scores.shape[1]
    ranked = [line for line, sampling in enumerate(samplings) if 0 < sampling.top_k < vocabulary]
    others = sorted(set(range(len(samplings))).difference(ranked))
    nucleus = [line for line in others if samplings[line].top_p < 1]
    whole = [line for line in others if samplings[line].top_p >= 1]
    if whole:
        yield Survivors(whole, _likely(lines_of(scores, whole), [samplings[line] for line in whole]), None)
    if ranked:
        yield from _few(scores, samplings, ranked, None)
    if nucleus:
        yield from _few(scores, samplings, nucleus, scores.softmax(-1))


def _tempered(scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Scores divided by the temperatures, the largest shifted to 0 before, so that no temperature overflows."""
    shifted = scores - scores.amax(-1, keepdim=True)
    # What float32 rounds to 0 leaves the likeliest alone, as every temperature near it does.
    least = torch.finfo(scores.dtype).tiny
    return shifted.div_(_column(scores, [max(sampling.temperature, least) for sampling in samplings]))


def _few(scores: Tensor, samplings: Sequence[Sampling], lines: list[int], shares: Tensor | None) -> Iterator[Survivors]:
    """Lines that keep few tokens, as a rule. shares: the softmax of scores, for lines without a top-k."""
    vocabulary = scores.shape[1]
    for size in (*(look for look in _LOOKS if look < vocabulary), vocabulary):
        values, ids = lines_of(scores, lines).topk(size)
        chosen = [samplings[line] for line in lines]
        if shares is None:
            kept, cut = _ranked(values, chosen)
        else:
            kept, cut = _nucleus(lines_of(shares, lines).gather(1, ids), chosen)
        kept[:, 0] = True
        values = _likely(values, chosen)
        # Where the last of them survives a cut, others behind it might: these lines are looked at again.
        ended = [index for index, more in enumerate(cut.tolist()) if not more or size == vocabulary]
        if ended:
            yield _by_id([lines[index] for index in ended], values[ended], ids[ended], kept[ended])
        lines = [line for line, more in zip(lines, cut.tolist(), strict=True) if more]
        if not lines:
            return


def _ranked(values: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """What top-k and then top-p keep of values [lines, tokens], descending; and whether top-k keeps the last.

    As many as k, and what equals the last of them. Shares are of what top-k kept.
    """
    last = torch.tensor([[min(sampling.top_k, values.shape[1]) - 1] for sampling in samplings], device=values.device)
    kept = (values >= values.gather(1, last)) & (values > _NEVER)
    shares = values.masked_fill(~kept, _NEVER).softmax(-1)
    within, _ = _nucleus(shares, samplings)
    return kept & within, kept[:, -1]


def _nucleus(shares: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """The likeliest tokens that together reach top-p, and whether the last of them is needed for it."""
    top_p = _column(shares, [sampling.top_p for sampling in samplings])
    within = (shares.cumsum(-1) - shares < top_p) | (top_p >= 1)
    within &= shares > 0
    return within, within[:, -1]


def _likely(scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """What min-p keeps. A probability is exp(score) / Z, so the ratio to the largest is exp(score)."""
    least = [sampling.min_p for sampling in samplings]
    return scores.masked_fill(scores.exp() < _column(scores, least), _NEVER) if any(least) else scores


def _by_id(lines: Sequence[int], values: Tensor, ids: Tensor, kept: Tensor) -> Survivors:
    ids, order = ids.sort(-1)
    return Survivors(lines, values.masked_fill(~kept, _NEVER).gather(1, order), ids)


def _column(like: Tensor, numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None]
