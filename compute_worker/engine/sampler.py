"""From logits to tokens: filters, draws and log-probabilities.

Owns the order of the filters (transformers' order: penalty, temperature, top-k, top-p, min-p) and
random numbers that are a function of (seed, index) alone, so that a draw never depends on
batch-mates. Does not know models or requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
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
    best = _likeliest(logits, rows) if rows else []
    return [
        Drawn(token) if is_plain(row.sample) else _draw_one(scores.float(), row)
        for token, scores, row in zip(best, logits, rows, strict=True)
    ]


def _likeliest(logits: Tensor, rows: Sequence[StepRow]) -> list[int]:
    """The likeliest token of each row that its form allows.

    What is likeliest of all is allowed more often than not: only where it is not, the allowed ones, few as a
    rule, are looked at.
    """
    best: list[int] = logits.argmax(-1).tolist()
    for index, row in enumerate(rows):
        if row.allowed is not None and not _permits(row.allowed, best[index]):
            ids = torch.from_numpy(np.flatnonzero(_bits(row.allowed, logits.shape[1]))).to(logits.device)
            # A form that allows nothing has failed: its guide says so, whatever is drawn.
            best[index] = int(ids[logits[index, ids].argmax()]) if len(ids) else 0
    return best


def _permits(allowed: bytes, token: int) -> bool:
    return token // 8 < len(allowed) and bool(allowed[token // 8] >> token % 8 & 1)


def _bits(allowed: bytes, vocabulary: int) -> NDArray[np.uint8]:
    """1 for each token of a mask (bits as StepRow's `allowed`) that may be drawn."""
    return np.unpackbits(np.frombuffer(allowed, np.uint8), count=vocabulary, bitorder="little")


def _imposed(logits: Tensor, allowed: bytes) -> Tensor:
    """Logits [vocabulary] with -inf for what may not be drawn."""
    refused = torch.from_numpy(_bits(allowed, len(logits)) == 0).to(logits.device)
    return logits.masked_fill(refused, float("-inf"))


def is_plain(sampling: Sampling | None) -> bool:
    """Whether the most probable token is all there is to draw."""
    return sampling is None or (
        sampling.temperature == 0 and sampling.repetition_penalty == 1 and sampling.logprobs is None
    )


def _draw_one(logits: Tensor, row: StepRow) -> Drawn:
    sampling = row.sample or Sampling()
    logits = torch.nan_to_num(logits, nan=torch.finfo(logits.dtype).min)
    bounded = logits if row.allowed is None else _imposed(logits, row.allowed)
    scores = penalise(bounded, row.context, sampling.repetition_penalty)
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
