"""The formulas against their dense form, where PEFT is no oracle or not needed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_worker.merge.draws import draw, key_of
from compute_worker.merge.operators import elected_mean, keep_largest, keep_random
from compute_worker.merge.stacked import Factors, bounded, nearest, norm, stack, truncate
from lorry.errors import InvalidCombination

SEEDS = st.integers(0, 2**32)
WEIGHT = st.floats(-4, 4, width=32)


def factors(seed: int, rank: int, out_features: int = 7, in_features: int = 5) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rank, in_features, generator=generator), torch.randn(out_features, rank, generator=generator)
    )


def delta(pair: Factors) -> torch.Tensor:
    return pair.b.double() @ pair.a.double()


def reference_svd(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B = U S and A = V of the dense delta, the largest entry of each column of U positive."""
    u, s, v = torch.linalg.svd(dense.double(), full_matrices=False)
    u, s, v = u[:, :rank], s[:rank], v[:rank]
    sign = u.gather(0, u.abs().argmax(dim=0, keepdim=True)).sign()
    return u * sign * s, v * sign.T


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SEEDS, st.integers(1, 9), WEIGHT, WEIGHT), min_size=1, max_size=4))
def test_cat_is_the_weighted_sum_of_the_deltas(sources: list[tuple[int, int, float, float]]) -> None:
    pairs = [factors(seed, rank) for seed, rank, _, _ in sources]
    weights, scalings = [weight for _, _, weight, _ in sources], [scaling for _, _, _, scaling in sources]
    exact = sum(w * s * delta(pair) for pair, w, s in zip(pairs, weights, scalings, strict=True))
    stacked = stack(pairs, weights, scalings)
    assert stacked.a.shape[0] == sum(rank for _, rank, _, _ in sources)
    torch.testing.assert_close(delta(stacked), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3, 6])
@pytest.mark.parametrize(("out_features", "in_features"), [(40, 30), (30, 40), (4, 30), (30, 4)])
def test_svd_equals_the_dense_svd_factor_by_factor(rank: int, out_features: int, in_features: int) -> None:
    exact = stack([factors(seed, 3, out_features, in_features) for seed in (1, 2)], [1.0, -0.5], [2.0, 1.0])
    ours = truncate(exact, rank, None)
    b, a = reference_svd(delta(exact), min(rank, out_features, in_features))
    torch.testing.assert_close(ours.b.double(), b, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.a.double(), a, rtol=0, atol=1e-5)


def test_svd_of_no_less_than_the_rank_there_is_loses_nothing_and_pads_nothing() -> None:
    exact = stack([factors(1, 2, 20, 30), factors(2, 3, 20, 30)], [1.0, 1.0], [1.0, 1.0])
    whole = truncate(exact, 64, None)
    assert whole.a.shape == (5, 30)
    torch.testing.assert_close(delta(whole), delta(exact), rtol=0, atol=1e-5)


def test_svd_of_a_zero_delta_is_zero() -> None:
    result = truncate(stack([factors(1, 2)], [0.0], [1.0]), 2, 0.99)
    assert delta(result).count_nonzero() == 0


@pytest.mark.parametrize("quantile", [0.8, 0.99, 1.0])
def test_clamping_cuts_both_factors_at_the_quantile_of_their_signed_values(quantile: float) -> None:
    exact = stack([factors(1, 4, 20, 30)], [1.0], [1.0])
    b, a = reference_svd(delta(exact), 3)
    bound = float(torch.quantile(torch.cat([b.flatten(), a.flatten()]), quantile))
    ours = truncate(exact, 3, quantile)
    torch.testing.assert_close(ours.b.double(), b.clamp(-bound, bound), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.a.double(), a.clamp(-bound, bound), rtol=0, atol=1e-5)


def test_a_quantile_below_zero_is_refused() -> None:
    with pytest.raises(InvalidCombination, match="take one near 1"):
        truncate(stack([factors(1, 4, 20, 30)], [1.0], [1.0]), 3, 0.01)


def test_pruning_keeps_the_largest_values_whatever_their_sign() -> None:
    factor = torch.tensor([[0.1, -4.0, 2.0], [3.0, -0.2, 0.3]])
    assert keep_largest(factor, 0.5).tolist() == [[0, -4, 2], [3, 0, 0]]
    assert keep_largest(factor, 0.66).tolist() == [[0, -4, 2], [3, 0, 0]]  # int(0.66 * 6) = 3
    assert keep_largest(factor, 0).count_nonzero() == 0


def test_the_sign_is_elected_before_the_weights_and_ties_are_positive() -> None:
    factors_of_three = torch.tensor([[[3.0, 1.0]], [[-1.0, -1.0]], [[-1.0, 0.0]]])
    weights = [1.0, 10.0, 10.0]
    # First entry: the sum is +1, the signs are 1 to 2. Second: a draw in both.
    assert elected_mean(list(factors_of_three), weights, "total").tolist() == [[3.0, 1.0]]
    assert elected_mean(list(factors_of_three), weights, "frequency").tolist() == [[-10.0, 1.0]]


def test_of_equal_values_the_first_are_kept() -> None:
    assert keep_largest(torch.tensor([[1.0, -1.0, 2.0], [1.0, 0.0, -1.0]]), 0.5).tolist() == [[1, -1, 2], [0, 0, 0]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.floats(0, 1))
def test_pruning_keeps_exactly_its_share_and_nothing_smaller_than_what_it_drops(
    values: list[int], density: float
) -> None:
    tensor = torch.tensor(values, dtype=torch.float32) + 0.5  # none is 0
    kept = keep_largest(tensor, density) != 0
    assert int(kept.sum()) == int(density * len(values))
    if kept.any() and not kept.all():
        assert tensor[kept].abs().min() >= tensor[~kept].abs().max()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SEEDS, WEIGHT), min_size=1, max_size=4))
def test_an_elected_mean_is_the_weighted_mean_of_those_that_agree(sources: list[tuple[int, float]]) -> None:
    tensors = [torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed, _ in sources]
    weights = [weight for _, weight in sources]
    merged = elected_mean(tensors, weights, "total")
    for entry, value in enumerate(merged.tolist()):
        own = [float(tensor[entry]) for tensor in tensors]
        sign = 1 if sum(own) >= 0 else -1
        agreeing = [weight * x for weight, x in zip(weights, own, strict=True) if x * sign > 0]
        assert value == pytest.approx(sum(agreeing) / max(1, len(agreeing)), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 12), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_a_bounded_sum_is_the_same_delta_at_full_rank_at_most(seed: int, rank: int, shape: tuple[int, int]) -> None:
    exact = factors(seed, rank, *shape)
    short = bounded(exact)
    assert short.a.shape[0] == min(rank, *shape)
    torch.testing.assert_close(delta(short), delta(exact), rtol=1e-6, atol=1e-5)
    assert norm(exact) == pytest.approx(float(delta(exact).norm()), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 30, 99])
@pytest.mark.parametrize(("out_features", "in_features"), [(40, 30), (30, 40), (30, 30)])
def test_the_nearest_of_a_dense_delta_is_its_dense_svd(rank: int, out_features: int, in_features: int) -> None:
    dense = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(rank))
    ours = nearest(dense, rank, None)
    b, a = reference_svd(dense, rank)
    torch.testing.assert_close(ours.b.double(), b, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.a.double(), a, rtol=0, atol=1e-5)


def test_dare_keeps_its_share_and_rescales_it() -> None:
    kept = keep_random(torch.ones(200, 200), 0.25, key_of(0, "m", "A", "sha256:0"))
    assert set(kept.unique().tolist()) == {0.0, 4.0}
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.05)


def test_each_module_side_and_source_draws_its_own_numbers() -> None:
    keys = [(0, "m", "A", "x"), (1, "m", "A", "x"), (0, "n", "A", "x"), (0, "m", "B", "x"), (0, "m", "A", "y")]
    draws = {tuple(draw(torch.Size([64]), 0.5, key_of(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)
    assert tuple(draw(torch.Size([64]), 0.5, key_of(*keys[0])).tolist()) in draws


def test_an_entry_is_drawn_by_its_place_alone() -> None:
    key = key_of(1, "m", "A", "x")
    long = draw(torch.Size([5, 7]), 0.5, key).flatten()
    assert torch.equal(draw(torch.Size([11]), 0.5, key), long[:11])


def test_a_seed_means_the_same_draws_everywhere() -> None:
    drawn = draw(torch.Size([32]), 0.5, key_of(2**64 - 1, "model.layers.0.self_attn.q_proj", "A", "sha256:00"))
    assert "".join(str(int(kept)) for kept in drawn) == "11011100010101001110111110001101"
