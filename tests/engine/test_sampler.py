from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from compute_worker.contract import Drawn, Sampling, StepRow
from compute_worker.engine.filters import survivors
from compute_worker.engine.sampler import draw, penalised, uniform

# All ways to look for what survives: all at once, first the 64 largest, and then the 1,024 largest.
SIZES = [50, 300, 5000]


def logits_of(size: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def row(sampling: Sampling, index: int = 0, context: Sequence[int] = ()) -> StepRow:
    return StepRow((1,), 0, (0,), (), sampling, context, index)


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """How likely each token is to be drawn."""
    (left,) = survivors(logits[None], [sampling])
    ids = torch.arange(len(logits)) if left.ids is None else left.ids[0]
    return torch.full_like(logits, float("-inf")).index_copy(0, ids, left.scores[0]).softmax(0)


def one(logits: Tensor, sampling: Sampling, index: int = 0, context: Sequence[int] = ()) -> Drawn:
    return draw(logits[None], [row(sampling, index, context)])[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.0, top_k=5),
        Sampling(temperature=1.0, top_k=10**6),
        Sampling(temperature=1.3, top_p=0.6),
        Sampling(temperature=4.0, top_p=0.999),
        Sampling(temperature=1.0, top_p=1e-6),
        Sampling(temperature=1.0, min_p=0.1),
        Sampling(temperature=0.9, top_k=40, top_p=0.8, min_p=0.05),
    ],
)
def test_the_distribution_is_transformers(size: int, sampling: Sampling) -> None:
    logits = logits_of(size)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))

    expected = warpers(torch.zeros(1, 1, dtype=torch.long), logits[None])[0].softmax(0)

    torch.testing.assert_close(distribution(logits, sampling), expected)


@pytest.mark.parametrize("size", SIZES)
def test_tokens_that_equal_the_last_of_top_k_are_kept_like_transformers_keeps_them(size: int) -> None:
    logits = logits_of(size).round()

    expected = TopKLogitsWarper(5)(torch.zeros(1, 1, dtype=torch.long), logits[None])[0].softmax(0)

    torch.testing.assert_close(distribution(logits, Sampling(temperature=1.0, top_k=5)), expected)


def test_the_repetition_penalty_is_transformers() -> None:
    logits, context = logits_of(50), [3, 7, 7, 11]

    expected = RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([context]), logits[None].clone())[0]

    got = penalised(logits.repeat(3, 1), [row(Sampling(repetition_penalty=p), context=context) for p in (1, 1.4, 1)])

    torch.testing.assert_close(got, torch.stack([logits, expected, logits]))


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.0, 0.2]).log()

    counts = Counter(one(logits, Sampling(temperature=1.0, seed=42), index).token for index in range(4000))

    assert counts[2] == 0
    for token, probability in ((0, 0.5), (1, 0.3), (3, 0.2)):
        # Five standard deviations of a binomial; the seed is fixed, so it holds or does not.
        assert abs(counts[token] - 4000 * probability) < 5 * math.sqrt(4000 * probability * (1 - probability))


def test_a_draw_is_a_function_of_seed_and_index_alone() -> None:
    rows = [row(Sampling(temperature=1.5, seed=seed, top_p=0.9), index) for seed in range(5) for index in range(5)]
    logits = torch.stack([logits_of(300, seed) for seed in range(25)])

    together = draw(logits, rows)
    alone = [draw(logits[place][None], [single])[0] for place, single in reversed(list(enumerate(rows)))]

    assert together == alone[::-1]


def any_row(dice: random.Random, size: int) -> StepRow:
    sampling = Sampling(
        temperature=dice.choice([0, 0.2, 0.7, 1, 1.5, 5]),
        top_k=dice.choice([0, 0, 1, 5, 50, 64, 200, size]),
        top_p=dice.choice([1, 1, 0.1, 0.5, 0.9, 0.999]),
        min_p=dice.choice([0, 0, 0.02, 0.3]),
        repetition_penalty=dice.choice([1, 1, 1.2, 0.8]),
        seed=dice.randrange(2**32),
        logprobs=dice.choice([None, None, 0, 1, 20]),
    )
    allowed = dice.choice([None, None, dice.randbytes(-(-size // 8)), b"\x05"])
    context = dice.choices(range(size), k=dice.randrange(30))
    return replace(row(sampling, dice.randrange(100), context), allowed=allowed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("digits", [6, 0])  # 0: many tokens are equally likely
def test_a_row_draws_alone_what_it_draws_in_any_batch(size: int, digits: int) -> None:
    dice = random.Random(size)  # noqa: S311 - the same cases in every run
    rows = [any_row(dice, size) for _ in range(120)]
    logits = torch.stack([logits_of(size, seed).round(decimals=digits) for seed in range(len(rows))])

    together = draw(logits, rows)

    assert together == [draw(logits[place][None], [single])[0] for place, single in enumerate(rows)]
    for single, drawn in zip(rows, together, strict=True):
        assert single.allowed is None or permits(single.allowed, drawn.token)


def permits(allowed: bytes, token: int) -> bool:
    return bool(int.from_bytes(allowed, "little") >> token & 1)


def test_numbers_of_neighbouring_seeds_and_indices_are_unlike() -> None:
    numbers = {uniform(seed, index) for seed in range(30) for index in range(30)}

    assert len(numbers) == 900
    assert all(0 <= number < 1 for number in numbers)
    assert abs(sum(numbers) / 900 - 0.5) < 0.05


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-46, 5e-324])
def test_no_temperature_and_hardly_any_are_greedy(temperature: float) -> None:
    logits = logits_of(300)

    assert one(logits, Sampling(temperature=temperature)).token == int(logits.argmax())


@pytest.mark.parametrize("sampling", [Sampling(temperature=1e-46, top_p=0.9), Sampling(temperature=1e-300, top_k=3)])
def test_filters_beside_hardly_any_temperature_are_greedy(sampling: Sampling) -> None:
    logits = logits_of(300)

    assert one(logits, sampling).token == int(logits.argmax())


@pytest.mark.parametrize("penalty", [1e-30, 1e-40, 1e-300])
def test_hardly_any_repetition_penalty_draws_what_was_there_and_no_nonsense(penalty: float) -> None:
    logits = torch.tensor([1.0, 0.0, 5.0, 2.0])

    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature=temperature, repetition_penalty=penalty)
        assert one(logits, sampling, context=[0, 1]).token == 0


def test_greedy_obeys_the_repetition_penalty() -> None:
    logits = torch.tensor([1.0, 3.0, 2.9])

    assert one(logits, Sampling(repetition_penalty=2.0), context=[1]).token == 2


@pytest.mark.parametrize("sampling", [Sampling(logprobs=3), Sampling(temperature=0.1, top_k=1, logprobs=3)])
def test_log_probabilities_are_those_before_temperature_and_filters(sampling: Sampling) -> None:
    logits = logits_of(300)
    natural = logits.log_softmax(0)

    drawn = one(logits, sampling)

    assert drawn.logprob == pytest.approx(float(natural[drawn.token]))
    assert [token for token, _ in drawn.top] == natural.topk(3).indices.tolist()
    assert [value for _, value in drawn.top] == pytest.approx(natural.topk(3).values.tolist())


def test_zero_log_probabilities_are_the_drawn_ones_alone() -> None:
    drawn = one(logits_of(300), Sampling(logprobs=0))

    assert drawn.logprob is not None
    assert drawn.top == ()


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.0, top_p=0.5, min_p=0.1, top_k=4), Sampling(logprobs=2)]
)
def test_a_row_without_a_finite_logit_still_draws_and_its_neighbour_never_notices(
    fill: float, sampling: Sampling
) -> None:
    logits = logits_of(300)
    broken = torch.full_like(logits, fill)

    ours, neighbours = draw(torch.stack([broken, logits]), [row(sampling), row(sampling)])

    assert 0 <= ours.token < 300
    assert neighbours == one(logits, sampling)


def test_a_form_that_allows_nothing_still_draws_a_token_that_there_is() -> None:
    for sampling in (Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_k=3, top_p=0.5)):
        nothing = replace(row(sampling), allowed=bytes(38))

        assert 0 <= draw(logits_of(300)[None], [nothing])[0].token < 300


def test_no_rows_draw_nothing() -> None:
    assert draw(torch.empty(0, 300), []) == []
