"""From logits to tokens: masks, penalties, draws and log-probabilities, of many rows at once.

Owns the order (mask, repetition penalty, then the filters) and random numbers that are a function of
(seed, index) alone, so that a draw never depends on batch-mates. Does not know models, requests, or
what the filters keep.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compute_worker.contract import Drawn, Sampling, StepRow
from compute_worker.engine.filters import lines_of, survivors

# Numbers that are filtered together: 10 rows of 49,152. A draw from all of them takes 24 bytes a number on the way,
# which then stays within a cache of 12 MB; more rows together are no faster.
_TOGETHER = 1 << 19
# One bit less than a float64 has: u * total then never rounds up to total.
_RANDOM_BITS = 52


def draw(logits: Tensor, rows: Sequence[StepRow]) -> list[Drawn]:
    """One token for each row. logits: [rows, vocabulary], of any floating type; every row has `sample`.

    A row of NaN still draws something: whatever is wrong with one request, its neighbours go on.
    """
    drawn: dict[int, Drawn] = {}
    plain = [index for index, row in enumerate(rows) if is_plain(row.sample)]
    best = _likeliest(lines_of(logits, plain), [rows[index] for index in plain]) if plain else []
    drawn.update((index, Drawn(token)) for index, token in zip(plain, best, strict=True))
    others = [index for index in range(len(rows)) if index not in drawn]
    for part in _parts(others, logits.shape[1]):
        drawn.update(zip(part, _draw(lines_of(logits, part), [rows[index] for index in part]), strict=True))
    return [drawn[index] for index in range(len(rows))]


def _parts(indices: list[int], vocabulary: int) -> Iterator[list[int]]:
    size = max(1, _TOGETHER // vocabulary)
    for begin in range(0, len(indices), size):
        yield indices[begin : begin + size]


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


def is_plain(sampling: Sampling | None) -> bool:
    """Whether the most probable token is all there is to draw."""
    return sampling is None or (
        sampling.temperature == 0 and sampling.repetition_penalty == 1 and sampling.logprobs is None
    )


def _draw(logits: Tensor, rows: Sequence[StepRow]) -> list[Drawn]:
    """Tokens for rows of any kind, with what they ask for beside it."""
    logits = torch.nan_to_num(logits.float(), nan=torch.finfo(torch.float32).min)
    samplings = [row.sample or Sampling() for row in rows]
    scores = penalised(_imposed(logits, rows), rows)
    tokens = scores.argmax(-1)
    sampled = [index for index, sampling in enumerate(samplings) if sampling.temperature > 0]
    if sampled:
        numbers = [uniform(samplings[index].seed, rows[index].index) for index in sampled]
        tokens[sampled] = _picked(lines_of(scores, sampled), [samplings[index] for index in sampled], numbers)
    return _described(logits, tokens, samplings)


def _imposed(logits: Tensor, rows: Sequence[StepRow]) -> Tensor:
    """Logits with -inf for what forms do not allow."""
    masks = {index: _bits(row.allowed, logits.shape[1]) for index, row in enumerate(rows) if row.allowed is not None}
    if not masks:
        return logits
    refused = torch.from_numpy(np.stack(list(masks.values())) == 0).to(logits.device)
    bounded = logits.clone()
    bounded[list(masks)] = logits[list(masks)].masked_fill(refused, float("-inf"))
    return bounded


def penalised(logits: Tensor, rows: Sequence[StepRow]) -> Tensor:
    """Logits with those of tokens in a row's context divided by its penalty, or multiplied where negative.

    Keskar et al., arXiv 1909.05858, section 4.1, with the sign rule of transformers.
    """
    penalties = {index: row.sample.repetition_penalty for index, row in enumerate(rows) if row.sample}
    changed = [index for index, penalty in penalties.items() if penalty != 1]
    if not changed:
        return logits
    lengths = torch.tensor([len(rows[index].context) for index in changed])
    lines = torch.tensor(changed).repeat_interleave(lengths).to(logits.device)
    numbers = torch.finfo(logits.dtype)
    # What float32 rounds to 0 is its least number, and what that makes of a score its largest.
    factors = torch.tensor([max(penalties[index], numbers.tiny) for index in changed])
    factors = factors.repeat_interleave(lengths).to(logits.device)
    seen = torch.cat([torch.tensor(rows[index].context, dtype=torch.long) for index in changed]).to(logits.device)
    scores = logits[lines, seen]
    scores = torch.where(scores < 0, scores * factors, (scores / factors).clamp_(max=numbers.max))
    # A token that is there twice gets the same number twice.
    return logits.index_put((lines, seen), scores)


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that is the same on every machine; independent for different (seed, index)."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> (64 - _RANDOM_BITS)) / (1 << _RANDOM_BITS)


def _picked(scores: Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]) -> Tensor:
    """The token of each line at its number of the cumulative distribution, in the order of ids."""
    tokens = torch.empty(len(samplings), dtype=torch.long, device=scores.device)
    for left in survivors(scores, samplings):
        cumulative = left.scores.double().softmax(-1).cumsum_(-1)
        targets = cumulative[:, -1:] * cumulative.new_tensor([[numbers[line]] for line in left.lines])
        # Behind the last where none is left: a form that allows nothing has failed, whatever is drawn.
        places = torch.searchsorted(cumulative, targets, right=True).clamp_(max=cumulative.shape[1] - 1)
        tokens[left.lines] = (places if left.ids is None else left.ids.gather(1, places))[:, 0]
    return tokens


def _described(logits: Tensor, tokens: Tensor, samplings: Sequence[Sampling]) -> list[Drawn]:
    """The tokens, with the log-probabilities that are asked for."""
    drawn = [Drawn(token) for token in tokens.tolist()]
    asked: dict[int, list[int]] = defaultdict(list)
    for index, sampling in enumerate(samplings):
        if sampling.logprobs is not None:
            asked[min(sampling.logprobs, logits.shape[1])].append(index)
    for count, lines in asked.items():
        natural = lines_of(logits, lines).log_softmax(-1)
        own = natural.gather(1, tokens[lines, None])[:, 0].tolist()
        values, ids = (top.tolist() for top in natural.topk(count))
        for place, index in enumerate(lines):
            drawn[index] = Drawn(drawn[index].token, own[place], tuple(zip(ids[place], values[place], strict=True)))
    return drawn
