"""Every native kernel against its meaning in torch: odd and even shapes, any rank, empty sets, both types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_worker.engine.additions import Added, GroupedCell, Touch
from compute_worker.engine.kernels import (
    Adapt,
    AddNorm,
    Attend,
    Heads,
    Kernels,
    Places,
    Segments,
    SiluMul,
)
from compute_worker.engine.native import NativeKernels, library
from scripts.build_native import build
from tests.support.kernels import TWIN, best, near, noise, product, run

# Drawn shapes are small: what differs lies at the edges of tiles of up to 12 tokens, and of panels of 16 or 32.
SHAPES = st.integers(1, 40)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
QUICK = settings(max_examples=20, deadline=None)


@pytest.fixture(scope="module", params=["this CPU", pytest.param("wide", marks=pytest.mark.long)])
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    if library() is None:
        pytest.skip("no native kernels for this CPU: make setup builds them where g++ and AVX2 are")
    built = build(tmp_path_factory.mktemp("native"), ["wide"]) if request.param == "wide" else [library() or Path()]
    if not built:
        pytest.skip("needs g++")
    return NativeKernels(built[0], pairs=False, matrix_units=False)


@QUICK
@given(tokens=st.integers(0, 70), n=SHAPES, k=st.integers(1, 200), dtype=DTYPES, with_bias=st.booleans())
def test_linear(native: Kernels, tokens: int, n: int, k: int, dtype: torch.dtype, *, with_bias: bool) -> None:
    x, weight, bias = noise(tokens + 1, k), noise(n, k, dtype=dtype), noise(n) if with_bias else None

    near(product(native, x, weight, bias), product(TWIN, x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 7, 45, 100])
def test_linear_of_a_size_that_is_cut_into_blocks_of_tokens_and_of_the_sum(
    native: Kernels, tokens: int, dtype: torch.dtype
) -> None:
    x, weight = noise(tokens + 1, 1600), noise(150, 1600, dtype=dtype)

    near(product(native, x, weight, None), product(TWIN, x, weight, None))


@pytest.mark.parametrize("tokens", [1, 45])
def test_a_long_sum_is_as_near_to_the_true_one_as_torchs(native: Kernels, tokens: int) -> None:
    x, weight = noise(tokens + 1, 4800), noise(150, 4800, dtype=torch.bfloat16)
    exact = x[:-1].double() @ weight.double().T

    ours, torchs = ((product(each, x, weight, None) - exact).norm() for each in (native, TWIN))

    assert ours < 2 * torchs


@QUICK
@given(n=SHAPES, k=st.integers(1, 60), dtype=DTYPES)
def test_a_packed_matrix_can_be_had_back(native: Kernels, n: int, k: int, dtype: torch.dtype) -> None:
    weight = noise(n, k, dtype=dtype)

    assert torch.equal(native.pack(weight, dtype).rows(), weight.float())
    assert torch.equal(native.pack(weight, torch.bfloat16).rows(), weight.bfloat16().float())


@QUICK
@given(n=SHAPES, k=st.integers(1, 60), dtype=DTYPES, data=st.data())
def test_some_rows_of_a_packed_matrix(native: Kernels, n: int, k: int, dtype: torch.dtype, data: st.DataObject) -> None:
    ids = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=torch.int64)
    weight = noise(n, k, dtype=dtype)

    for kernels in (native, TWIN):
        assert torch.equal(kernels.pack(weight, dtype).lookup(ids), weight.float()[ids])


@pytest.mark.parametrize("wrong", [[40], [0, 41, 1], [-1]])
def test_a_row_that_is_not_there_is_not_read(native: Kernels, wrong: list[int]) -> None:
    for kernels in (native, TWIN):
        with pytest.raises(IndexError):
            kernels.pack(noise(40, 8), torch.float32).lookup(torch.tensor(wrong))


def test_float32_numbers_that_bfloat16_holds_take_half_the_memory() -> None:
    path = library()
    if path is None:
        pytest.skip("no native kernels for this CPU")
    kernels, weight = NativeKernels(path, pairs=False, matrix_units=False), noise(64, 64)

    exact = kernels.pack(weight.bfloat16().float(), torch.float32)

    assert exact.memory.nbytes * 2 == kernels.pack(weight, torch.float32).memory.nbytes
    assert torch.equal(exact.rows(), weight.bfloat16().float())


@QUICK
@given(tokens=st.integers(0, 40), n=SHAPES, k=st.integers(1, 60), dtype=DTYPES, with_bias=st.booleans())
def test_argmax(native: Kernels, tokens: int, n: int, k: int, dtype: torch.dtype, *, with_bias: bool) -> None:
    x, weight, bias = noise(tokens, k), noise(n, k, dtype=dtype), noise(n) if with_bias else None

    assert best(native, x, weight, bias) == best(TWIN, x, weight, bias)


def test_the_first_of_equal_rows_wins_and_a_row_of_nan_has_an_answer(native: Kernels) -> None:
    weight = torch.ones(90, 5)

    assert best(native, torch.ones(2, 5), weight, None) == [0, 0]
    assert best(native, torch.full((1, 5), float("nan")), weight, None)[0] in range(90)


@QUICK
@given(tokens=st.integers(0, 9), size=st.integers(1, 70), first=st.booleans())
def test_add_norm(native: Kernels, tokens: int, size: int, *, first: bool) -> None:
    x, y, weight = noise(tokens, size), None if first else noise(tokens, size, seed=1), noise(size)
    mine, other = (x.clone(), torch.empty_like(x)), (x.clone(), torch.empty_like(x))

    run(native, AddNorm(mine[0], y, weight, 1e-6, mine[1]), tokens)
    run(TWIN, AddNorm(other[0], y, weight, 1e-6, other[1]), tokens)

    near(mine[0], other[0])
    near(mine[1], other[1])


@QUICK
@given(tokens=st.integers(0, 9), size=st.integers(1, 70), spread=st.sampled_from([0.1, 1.0, 30.0, 200.0]))
def test_silu_mul(native: Kernels, tokens: int, size: int, spread: float) -> None:
    both = noise(tokens, 2 * size) * spread
    got, expected = torch.empty(tokens, size), torch.empty(tokens, size)

    run(native, SiluMul(both, got), tokens)
    run(TWIN, SiluMul(both, expected), tokens)

    near(got, expected)


@st.composite
def added(draw: st.DrawFn) -> tuple[int, Added]:
    """To so many tokens from 30 pool rows, in two segments; weights and ranks mixed, none at all among them."""
    made, tokens = [], draw(st.sampled_from([1, 2, 5, 9, 21, 150]))
    for _ in range(draw(st.integers(0, 6))):
        begin, first = draw(st.integers(0, tokens - 1)), draw(st.integers(0, 29))
        end, rank = draw(st.integers(begin + 1, tokens)), draw(st.integers(1, 30 - first))
        weight = draw(st.sampled_from([1.0, 0.5, -2.0]))
        made.append(GroupedCell(draw(st.integers(0, 1)), begin, end, first, rank, weight))
    return tokens, Added(tuple(made))


@pytest.fixture(params=[1, 2, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@QUICK
@given(
    sized=added(),
    touched=st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans()), max_size=3),
    k=SHAPES,
    widths=st.tuples(SHAPES, SHAPES),
    dtype=DTYPES,
)
def test_adapt(
    native: Kernels,
    sized: tuple[int, Added],
    touched: list[tuple[int, bool, bool]],
    k: int,
    widths: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    """Cells, and biases and magnitudes behind them, whatever threads share: tokens, or columns where they are few."""
    tokens, added = sized
    a = tuple(noise(30, k, seed=seed, dtype=dtype) for seed in range(2))
    b = tuple(noise(30, width, seed=seed, dtype=dtype) for seed, width in enumerate(widths))
    touches = tuple(
        Touch(
            segment,
            min(3 * index, tokens),
            min(20, tokens),
            noise(widths[segment]) if gain else None,
            noise(widths[segment], seed=index) if shift else None,
            0.5 if shift else 1.0,
        )
        for index, (segment, gain, shift) in enumerate(touched)
    )
    added = Added(added.cells, touches)
    segments, x = Segments(a, b, (0, widths[0])), noise(tokens, k)
    got = noise(tokens, sum(widths), seed=5)
    expected = got.clone()

    run(native, Adapt(x, got, segments, 0), tokens, added)
    run(TWIN, Adapt(x, expected, segments, 0), tokens, added)

    near(got, expected)


@QUICK
@given(
    lengths=st.lists(st.integers(1, 140), max_size=12),
    heads=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    half=st.integers(1, 20),
    window=st.sampled_from([None, 1, 6, 33]),
    dtype=DTYPES,
    forms=st.tuples(st.booleans(), st.booleans()),
)
def test_attend(
    native: Kernels,
    lengths: list[int],
    heads: tuple[int, int],
    half: int,
    window: int | None,
    dtype: torch.dtype,
    forms: tuple[bool, bool],
) -> None:
    """Each request: all of its tokens but one lie in the KV, or (every second one) the last 70 run as a chunk now.

    Few requests are cut by heads, many are not.
    """
    block, size, kv_heads = 8, 2 * half, heads[0]
    rotary, normed = forms
    rows, tables, tokens = [], [], 0
    for seat, length in enumerate(lengths):
        position = max(0, length - 70) if seat % 2 else length - 1
        rows.append((tokens, tokens + length - position, position, 18 * seat))
        tokens += length - position
        tables.extend(range(18 * seat + 17, 18 * seat - 1, -1))
    places = Places(
        torch.tensor(rows, dtype=torch.int64).reshape(-1, 4),
        torch.tensor(tables, dtype=torch.int64),
        noise(tokens, size, seed=2),
        noise(tokens, size, seed=3),
    )
    qkv = noise(tokens, (kv_heads * heads[1] + 2 * kv_heads) * size)
    norms = {"q_norm": noise(size), "k_norm": noise(size, seed=9), "eps": 1e-6} if normed else {}
    memory = noise(1728, kv_heads, size, seed=4, dtype=dtype), noise(1728, kv_heads, size, seed=5, dtype=dtype)
    results = []
    for kernels in (native, TWIN):
        keys, values = memory[0].clone(), memory[1].clone()
        layer = Heads(kv_heads * heads[1], kv_heads, size, 0.3, window, rotary, keys, values, **norms)
        out = torch.empty(tokens, kv_heads * heads[1] * size)
        run(kernels, Attend(qkv.clone(), layer, block, out), tokens, places=places)
        results.append((out, keys, values))

    (got, *written), (expected, *meant) = results
    # A key that is rounded to bfloat16 from the other side of a tie is off by one of 256 steps.
    close = 1e-4 if dtype == torch.float32 else 2e-2
    for mine, other in zip(written, meant, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), rtol=close, atol=close)
    if tokens:
        assert (got - expected).abs().max() <= close * expected.abs().max().clamp(min=1)
