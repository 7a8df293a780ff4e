"""From logits to tokens: filters, draws and log-probabilities.

Owns the order of the filters (transformers' order: penalty, temperature, top-k, top-p, min-p) and
random numbers that are a function of (seed, index) alone, so that a draw never depends on
batch-mates. Does not know models or requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from compute_worker.contract import Drawn, Sampling, StepRow

# Most nuclei are smaller: to find the 1,024 largest of 49,152 takes a fifth of sorting them all.
_NUCLEUS = 1024
# One bit less than a float64 has: u * total then never rounds up to total.
_RANDOM_BITS = 52


def draw(logits: Tensor, rows: Sequence[StepRow]) -> list[Drawn]:
    """One token for each row. logits: [rows, vocabulary], of any floating type; every row has `sample`.

    A row of NaN still draws something: whatever is wrong with one request, its neighbours go on.
    """
    best = logits.argmax(-1).tolist() if rows else []
    return [
        Drawn(token) if is_plain(row.sample) else _draw_one(scores.float(), row)
        for token, scores, row in zip(best, logits, rows, strict=True)
    ]


def is_plain(sampling: Sampling | None) -> bool:
    """Whether the most probable token is all there is to draw."""
    return sampling is None or (
        sampling.temperature == 0 and sampling.repetition_penalty == 1 and sampling.logprobs is None
    )


def _draw_one(logits: Tensor, row: StepRow) -> Drawn:
    sampling = row.sample or Sampling()
    logits = torch.nan_to_num(logits, nan=torch.finfo(logits.dtype).min)
    scores = penalise(logits, row.context, sampling.repetition_penalty)
    if sampling.temperature == 0:
        token = int(scores.argmax())
    else:
        token = _pick(filtered(scores, sampling), uniform(sampling.seed, row.index))
    return _describe(logits, token, sampling.logprobs)


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that is the same on every machine; independent for different (seed, index)."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> (64 - _RANDOM_BITS)) / (1 << _RANDOM_BITS)


def penalise(logits: Tensor, context: Sequence[int], penalty: float) -> Tensor:
    """Logits [vocabulary] with those of tokens in `context` divided by `penalty`, or multiplied where negative.

    Keskar et al., arXiv 1909.05858, section 4.1, with the sign rule of transformers.
    """
    if penalty == 1:
        return logits
    seen = torch.tensor(sorted(set(context)), device=logits.device)
    scores = logits[seen]
    return logits.index_copy(0, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def filtered(scores: Tensor, sampling: Sampling) -> Tensor:
    """Scores [vocabulary] after temperature, top-k, top-p and min-p: -inf for what cannot be drawn.

    The largest is shifted to 0 before the division, so that no temperature overflows.
    """
    scores = (scores - scores.max()) / sampling.temperature
    if 0 < sampling.top_k < scores.numel():
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[-1], float("-inf"))
    if sampling.top_p < 1:
        scores = _nucleus(scores, sampling.top_p)
    if sampling.min_p > 0:
        # A probability is exp(score) / Z, so the ratio to the largest is exp(score).
        scores = scores.masked_fill(scores.exp() < sampling.min_p, float("-inf"))
    return scores


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Only the most probable tokens that together reach `top_p`, at least one."""
    total = scores.logsumexp(0)
    for size in (min(_NUCLEUS, scores.numel()), scores.numel()):
        values, order = scores.topk(size)
        probabilities = (values - total).exp()
        before = probabilities.cumsum(0) - probabilities
        inside = before < top_p
        if not bool(inside[-1]):
            break
    inside[0] = True
    return torch.full_like(scores, float("-inf")).index_copy_(0, order[inside], values[inside])


def _pick(scores: Tensor, number: float) -> int:
    """The token at `number` of the cumulative distribution, in the order of ids."""
    cumulative = scores.double().softmax(0).cumsum(0)
    return int(torch.searchsorted(cumulative, cumulative[-1] * number, right=True))


def _describe(logits: Tensor, token: int, logprobs: int | None) -> Drawn:
    if logprobs is None:
        return Drawn(token)
    natural = logits.log_softmax(0)
    values, ids = natural.topk(min(logprobs, natural.numel()))
    return Drawn(token, float(natural[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
