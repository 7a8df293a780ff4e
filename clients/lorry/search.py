"""The search for weights: which mix of adapters explains examples best.

Owns the candidates (a grid over the simplex, or draws from it) and the sums over the examples. A
candidate is a selection, so nothing is combined to try it. Does not know how a score is computed.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from lorry.errors import InvalidInput
from lorry.scoring import Item
from lorry.v1.inference_pb2 import ScoreResponse

# Weights with more digits than these are no better known: examples are few.
_DIGITS = 4
# Laid out whole before the budget's share of it is chosen; at a millisecond an example nobody scores as many.
_MAX_GRID = 100_000


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate and what the examples say: the sum of all log-probabilities (natural), the number of
    tokens, and how many examples greedy decoding would have continued with exactly their continuation.
    """

    index: int
    weights: Mapping[str, float]
    logprob: float
    tokens: int
    greedy: int

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token."""
        return self.logprob / self.tokens


def grid(sources: Sequence[str], steps: int) -> Iterator[dict[str, float]]:
    """Every mix whose weights are multiples of 1 / steps and sum to 1; sources of weight 0 are left out.

    Raises InvalidInput.
    """
    _check(sources, steps, "steps")
    size = math.comb(steps + len(sources) - 1, steps)
    if size > _MAX_GRID:
        raise InvalidInput(f"expected a grid of at most {_MAX_GRID} mixes, got {size}: take fewer steps, or draws")
    for parts in _compositions(steps, len(sources)):
        yield {source: part / steps for source, part in zip(sources, parts, strict=True) if part}


def draws(sources: Sequence[str], count: int, seed: int) -> Iterator[dict[str, float]]:
    """Random mixes whose weights sum to 1, uniform over the simplex, equal for equal seeds. Raises InvalidInput."""
    _check(sources, count, "count")
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    for _ in range(count):
        parts = [chance.expovariate(1) for _ in sources]
        yield {source: round(part / sum(parts), _DIGITS) for source, part in zip(sources, parts, strict=True)}


def within(candidates: Iterable[dict[str, float]], budget: int, seed: int) -> list[dict[str, float]]:
    """At most `budget` of the candidates: where there are more, each source alone and a random choice of the others.

    Raises InvalidInput where not even those fit.
    """
    found = list(candidates)
    if len(found) <= budget:
        return found
    alone = [weights for weights in found if len(weights) == 1]
    if len(alone) > budget:
        raise InvalidInput(f"expected a budget of at least {len(alone)}, one for each source, got {budget}")
    mixes = [weights for weights in found if len(weights) > 1]
    chance = random.Random(seed)  # noqa: S311 - likewise
    return alone + chance.sample(mixes, budget - len(alone))


async def tried(
    candidates: Sequence[Mapping[str, float]],
    examples: Sequence[Item],
    score: Callable[[Iterable[Item]], AsyncGenerator[ScoreResponse, None]],
) -> AsyncGenerator[Tried, None]:
    """Every candidate once its last example is scored. Raises InvalidInput on no examples, or one with adapters."""
    if not examples:
        raise InvalidInput("expected at least one example, got none")
    for index, example in enumerate(examples):
        if example.keys() & {"adapters", "route"}:
            raise InvalidInput(f"example {index}: expected no adapters and no route, the candidates are tried on it")
    items = (_under(weights, example) for weights in candidates for example in examples)
    found: dict[int, list[ScoreResponse]] = {}
    async with aclosing(score(items)) as scores:
        async for answer in scores:
            index = answer.index // len(examples)
            answers = found.setdefault(index, [])
            answers.append(answer)
            if len(answers) == len(examples):
                yield _summed(index, candidates[index], found.pop(index))


def _under(weights: Mapping[str, float], example: Item) -> Item:
    return {**example, "adapters": weights}


def _summed(index: int, weights: Mapping[str, float], answers: Sequence[ScoreResponse]) -> Tried:
    # fsum: the order in which the answers came shall not show.
    logprob = math.fsum(answer.logprob for answer in answers)
    tokens = sum(len(answer.tokens) for answer in answers)
    return Tried(index, weights, logprob, tokens, sum(answer.greedy for answer in answers))


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of so many whole numbers from 0 up."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def _check(sources: Sequence[str], number: int, what: str) -> None:
    if not sources or len(set(sources)) != len(sources):
        raise InvalidInput(f"expected different sources, at least one, got {list(sources)}")
    if number < 1:
        raise InvalidInput(f"{what}: expected at least 1, got {number}")
