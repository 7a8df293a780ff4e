"""Every native kernel against its meaning in torch: odd and even shapes, any rank, empty sets, both types."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compute_worker.engine.kernels import Cells, GroupedCell, Heads, Kernels, Places, Segments
from compute_worker.engine.native import NativeKernels, library
from compute_worker.engine.twin import TorchKernels
from scripts.build_native import build

TWIN = TorchKernels()
# Relative to the largest number: sums of up to 200 float32 in another order, and an exponential to 2 ulp.
CLOSE = 1e-5
# Drawn shapes are small: what differs between kernels lies at the edges of tiles of 4 by 3 or 6, and of 8 or 16 lanes.
SHAPES = st.integers(1, 40)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
QUICK = settings(max_examples=20, deadline=None)


@pytest.fixture(scope="module", params=["this CPU", "wide"])
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    if library() is None:
        pytest.skip("no native kernels for this CPU: make setup builds them where g++ and AVX2 are")
    built = build(tmp_path_factory.mktemp("native"), ["wide"]) if request.param == "wide" else [library() or Path()]
    if not built:
        pytest.skip("needs g++")
    return NativeKernels(built[0], matrix_units=False)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def near(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    if got.numel():
        assert (got - expected).abs().max() <= CLOSE * expected.abs().max().clamp(min=1)


@QUICK
@given(tokens=st.integers(0, 70), n=SHAPES, k=st.integers(1, 200), dtype=DTYPES, with_bias=st.booleans())
def test_linear(native: Kernels, tokens: int, n: int, k: int, dtype: torch.dtype, *, with_bias: bool) -> None:
    x, weight, bias = noise(tokens, k), noise(n, k, dtype=dtype), noise(n) if with_bias else None
    got, expected = torch.full((tokens, n), 7.0), torch.empty(tokens, n)

    native.linear(x, weight, bias, got)
    TWIN.linear(x, weight, bias, expected)

    near(got, expected)


@QUICK
@given(tokens=st.integers(0, 40), n=SHAPES, k=st.integers(1, 60), dtype=DTYPES, with_bias=st.booleans())
def test_argmax(native: Kernels, tokens: int, n: int, k: int, dtype: torch.dtype, *, with_bias: bool) -> None:
    x, weight, bias = noise(tokens, k), noise(n, k, dtype=dtype), noise(n) if with_bias else None

    assert native.argmax(x, weight, bias) == TWIN.argmax(x, weight, bias)


def test_units_for_bfloat16_take_many_tokens_with_bfloat16s_own_error() -> None:
    path = library()
    if path is None:
        pytest.skip("no native kernels for this CPU")
    x, weight, bias = noise(70, 32), noise(5, 32, dtype=torch.bfloat16), noise(5)
    got, expected = torch.empty(70, 5), torch.empty(70, 5)

    NativeKernels(path, matrix_units=True).linear(x, weight, bias, got)
    TWIN.linear(x, weight, bias, expected)

    assert 0 < (got - expected).norm() < 1e-2 * expected.norm()


def test_the_first_of_equal_rows_wins_and_a_row_of_nan_has_an_answer(native: Kernels) -> None:
    weight = torch.ones(9, 5)

    assert native.argmax(torch.ones(2, 5), weight, None) == [0, 0]
    assert native.argmax(torch.full((1, 5), float("nan")), weight, None)[0] in range(9)


@QUICK
@given(tokens=st.integers(0, 9), size=st.integers(1, 70), first=st.booleans())
def test_add_norm(native: Kernels, tokens: int, size: int, *, first: bool) -> None:
    x, y, weight = noise(tokens, size), None if first else noise(tokens, size, seed=1), noise(size)
    mine, other = (x.clone(), torch.empty_like(x)), (x.clone(), torch.empty_like(x))

    native.add_norm(mine[0], y, weight, 1e-6, mine[1])
    TWIN.add_norm(other[0], y, weight, 1e-6, other[1])

    near(mine[0], other[0])
    near(mine[1], other[1])


@QUICK
@given(tokens=st.integers(0, 9), size=st.integers(1, 70), spread=st.sampled_from([0.1, 1.0, 30.0, 200.0]))
def test_silu_mul(native: Kernels, tokens: int, size: int, spread: float) -> None:
    both = noise(tokens, 2 * size) * spread
    got, expected = torch.empty(tokens, size), torch.empty(tokens, size)

    native.silu_mul(both, got)
    TWIN.silu_mul(both, expected)

    near(got, expected)


@st.composite
def cells(draw: st.DrawFn) -> tuple[GroupedCell, ...]:
    """Of 20 tokens, 30 pool rows and two segments; weights and ranks mixed, none at all among them."""
    made = []
    for _ in range(draw(st.integers(0, 6))):
        begin, first = draw(st.integers(0, 19)), draw(st.integers(0, 29))
        end, rank = draw(st.integers(begin + 1, 20)), draw(st.integers(1, 30 - first))
        weight = draw(st.sampled_from([1.0, 0.5, -2.0]))
        made.append(GroupedCell(draw(st.integers(0, 1)), begin, end, first, rank, weight))
    return tuple(made)


@QUICK
@given(cells=cells(), k=SHAPES, widths=st.tuples(SHAPES, SHAPES), dtype=DTYPES)
def test_adapt(
    native: Kernels, cells: tuple[GroupedCell, ...], k: int, widths: tuple[int, int], dtype: torch.dtype
) -> None:
    a = tuple(noise(30, k, seed=seed, dtype=dtype) for seed in range(2))
    b = tuple(noise(30, width, seed=seed, dtype=dtype) for seed, width in enumerate(widths))
    segments, x = Segments(a, b, (0, widths[0])), noise(20, k)
    got = noise(20, sum(widths), seed=5)
    expected = got.clone()

    native.adapt(x, got, segments, Cells(cells))
    TWIN.adapt(x, expected, segments, Cells(cells))

    near(got, expected)


@QUICK
@given(
    lengths=st.lists(st.integers(1, 40), min_size=0, max_size=4),
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
    """Each request: all of its tokens but one lie in the KV, or (every second one) run as a chunk now."""
    block, size, kv_heads = 8, 2 * half, heads[0]
    rotary, normed = forms
    positions, slots, first_block, tables = [], [], [], []
    for seat, length in enumerate(lengths):
        blocks = list(range(5 * seat + 4, 5 * seat - 1, -1))
        for position in range(0 if seat % 2 else length - 1, length):
            positions.append(position)
            slots.append(blocks[position // block] * block + position % block)
            first_block.append(5 * seat)
        tables.extend(blocks)
    tokens = len(positions)
    places = Places(
        *(torch.tensor(values, dtype=torch.int64) for values in (positions, slots, first_block, tables)),
        noise(tokens, size, seed=2),
        noise(tokens, size, seed=3),
    )
    qkv = noise(tokens, (kv_heads * heads[1] + 2 * kv_heads) * size)
    norms = {"q_norm": noise(size), "k_norm": noise(size, seed=9), "eps": 1e-6} if normed else {}
    memory = noise(160, kv_heads, size, seed=4, dtype=dtype), noise(160, kv_heads, size, seed=5, dtype=dtype)
    results = []
    for kernels in (native, TWIN):
        keys, values = memory[0].clone(), memory[1].clone()
        layer = Heads(kv_heads * heads[1], kv_heads, size, 0.3, window, rotary, keys, values, **norms)
        out = torch.empty(tokens, kv_heads * heads[1] * size)
        kernels.attend(qkv.clone(), places, layer, block, out)
        results.append((out, keys, values))

    (got, *written), (expected, *meant) = results
    # A key that is rounded to bfloat16 from the other side of a tie is off by one of 256 steps.
    close = 1e-4 if dtype == torch.float32 else 2e-2
    for mine, other in zip(written, meant, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), rtol=close, atol=close)
    if tokens:
        assert (got - expected).abs().max() <= close * expected.abs().max().clamp(min=1)
