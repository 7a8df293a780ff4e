"""Products whose activations are rounded to bfloat16: in pairs, and by a CPU's units for matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compute_worker.engine.additions import Added, Additions, GroupedCell
from compute_worker.engine.kernels import (
    NOWHERE,
    Adapt,
    AddNorm,
    Attend,
    Heads,
    Kernels,
    Linear,
    Places,
    Segments,
    SiluMul,
    Step,
)
from compute_worker.engine.native import NativeKernels, library
from tests.support.kernels import TWIN, best, near, noise, product, run

QUICK = settings(max_examples=20, deadline=None)
SHAPES = st.integers(1, 70)


@pytest.fixture(scope="module")
def path() -> Path:
    built = library()
    return built or pytest.skip("no native kernels for this CPU: make setup builds them where g++ and AVX2 are")


@pytest.fixture(scope="module")
def pairs(path: Path) -> Kernels:
    # A library for a CPU without such products has them all the same, slowly.
    return NativeKernels(path, pairs=True, matrix_units=False)


@QUICK
@given(tokens=st.integers(0, 70), n=SHAPES, k=st.integers(1, 200), with_bias=st.booleans())
def test_a_product_is_that_of_activations_rounded_to_bfloat16(
    pairs: Kernels, tokens: int, n: int, k: int, *, with_bias: bool
) -> None:
    x, weight = noise(tokens + 1, k), noise(n, k, dtype=torch.bfloat16)
    bias = noise(n) if with_bias else None

    near(product(pairs, x, weight, bias), product(TWIN, x.bfloat16().float(), weight, bias))


@pytest.mark.parametrize("tokens", [1, 7, 45, 200])
def test_a_product_that_is_cut_into_blocks_of_tokens_and_of_the_sum(pairs: Kernels, tokens: int) -> None:
    x, weight = noise(tokens + 1, 1601), noise(150, 1601, dtype=torch.bfloat16)

    near(product(pairs, x, weight, None), product(TWIN, x.bfloat16().float(), weight, None))


@QUICK
@given(tokens=st.integers(0, 40), n=SHAPES, k=st.integers(1, 60))
def test_the_largest_is_that_of_rounded_activations(pairs: Kernels, tokens: int, n: int, k: int) -> None:
    x, weight = noise(tokens, k), noise(n, k, dtype=torch.bfloat16)

    assert best(pairs, x, weight, None) == best(TWIN, x.bfloat16().float(), weight, None)


@QUICK
@given(n=SHAPES, k=st.integers(1, 60))
def test_a_matrix_in_pairs_can_be_had_back(pairs: Kernels, n: int, k: int) -> None:
    weight = noise(n, k, dtype=torch.bfloat16)
    packed = pairs.pack(weight, torch.bfloat16)

    assert torch.equal(packed.rows(), weight.float())
    assert torch.equal(packed.lookup(torch.tensor([n - 1, 0])), weight.float()[[n - 1, 0]])
    assert packed.nbytes == 2 * n * (k + k % 2)


@pytest.mark.parametrize("units", [False, True])
def test_float32_is_never_rounded_though_bfloat16_would_hold_the_weights(path: Path, *, units: bool) -> None:
    kernels = NativeKernels(path, pairs=True, matrix_units=units)
    x, weight = noise(71, 32), noise(5, 32).bfloat16().float()

    near(product(kernels, x, weight, None), product(TWIN, x, weight, None))


def test_what_is_no_number_stays_none(pairs: Kernels) -> None:
    x = torch.full((2, 33), float("nan"))

    assert bool(product(pairs, x, noise(5, 33, dtype=torch.bfloat16), None).isnan().all())


@pytest.mark.parametrize("size", [33, 64])
@pytest.mark.parametrize("adapted", [(), (0,), (1,), (0, 1)])
def test_what_is_made_for_the_next_product_is_what_each_operation_makes_alone(
    pairs: Kernels, size: int, adapted: tuple[int, ...]
) -> None:
    tokens, half = 21, 20
    shapes = (2 * half, size), (9, half)
    cell = Added((GroupedCell(0, 3, 17, 1, 4, 0.5),))
    additions = [cell if number in adapted else Added() for number in range(2)]
    first, last = (
        pairs.pack(noise(n, k, dtype=torch.bfloat16), torch.bfloat16) for n, k in ((2 * half, size), (9, half))
    )
    pool = [
        Segments((noise(6, k, dtype=torch.bfloat16),), (noise(6, n, dtype=torch.bfloat16),), (0,)) for n, k in shapes
    ]

    def made(*, together: bool) -> Tensor:
        stream, normed, both = noise(tokens, size), torch.empty(tokens, size), torch.empty(tokens, 2 * half)
        gated, out = torch.empty(tokens, half), torch.empty(tokens, 9)
        operations = [
            AddNorm(stream, noise(tokens, size, seed=1), noise(size), 1e-5, normed),
            Linear(normed, first, None, both),
            Adapt(normed, both, pool[0], 0),
            SiluMul(both, gated),
            Linear(gated, last, None, out),
            Adapt(gated, out, pool[1], 1),
        ]
        for program in [operations] if together else [[operation] for operation in operations]:
            pairs.program(program).run(Step(tokens, NOWHERE, Additions(additions)))
        return out

    assert torch.equal(made(together=True), made(together=False))


# A number that is rounded is off by 2^-9 at most: a query, a key that lies at a tie, a weight.
ROUNDED = 2e-2


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(2, 300),
    before=st.integers(0, 40),
    heads=st.sampled_from([(1, 1), (2, 3), (3, 2)]),
    size=st.integers(1, 80),
    window=st.sampled_from([None, 1, 33, 130]),
)
def test_a_prompts_attention_is_the_true_one_but_for_rounding(
    pairs: Kernels, length: int, before: int, heads: tuple[int, int], size: int, window: int | None
) -> None:
    kv_heads, count, block = heads[0], heads[0] * heads[1], 8
    blocks = -(-(before + length) // block)
    places = Places(torch.tensor([[0, length, before, 0]]), torch.arange(blocks).flip(0), *torch.empty(2, 0, 0))
    qkv, answers = noise(length, (count + 2 * kv_heads) * size), []
    for kernels in (pairs, TWIN):
        memory = [noise(blocks * block, kv_heads, size, seed=seed, dtype=torch.bfloat16) for seed in (4, 5)]
        answers.append(torch.empty(length, count * size))
        layer = Heads(count, kv_heads, size, 0.3, window, rotary=False, keys=memory[0], values=memory[1])
        run(kernels, Attend(qkv.clone(), layer, block, answers[-1]), length, places=places)

    assert (answers[0] - answers[1]).abs().max() <= ROUNDED * answers[1].abs().max().clamp(min=1)


def test_units_for_matrices_take_many_tokens_with_bfloat16s_own_error(path: Path) -> None:
    x, weight, bias = noise(71, 32), noise(5, 32, dtype=torch.bfloat16), noise(5)

    got = product(NativeKernels(path, pairs=False, matrix_units=True), x, weight, bias)
    expected = product(TWIN, x, weight, bias)

    assert 0 < (got - expected).norm() < 1e-2 * expected.norm()
