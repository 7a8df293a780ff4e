"""NaN and infinities are found in a stream, however it is cut."""

import struct
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry.errors import InvalidAdapter
from lorry.format.finite import check_finite, check_values
from lorry.format.header import TensorEntry, TensorIndex, header_length, parse_header
from tests.support.adapters import Raw, safetensors_bytes


def index_of(file: bytes) -> TensorIndex:
    return parse_header(file[: header_length(file[:8])], len(file))


def cut(data: bytes, sizes: list[int]) -> Iterator[memoryview]:
    view = memoryview(data)
    while view:
        size = sizes[len(view) % len(sizes)]
        yield view[:size]
        view = view[size:]


def mixed(**bits: tuple[int, int]) -> bytes:
    """A file of tensors of 5 values each in all three types; bits: type -> (place, pattern)."""
    raw: dict[str, Raw] = {}
    for dtype, mark in (("F32", "I"), ("F16", "H"), ("BF16", "H")):
        values = [0] * 5
        if dtype in bits:
            values[bits[dtype][0]] = bits[dtype][1]
        raw[dtype] = (dtype, (5,), struct.pack(f"<5{mark}", *values))
    return safetensors_bytes(raw)


def test_finite_files_pass_up_to_the_largest_values() -> None:
    file = mixed(F32=(0, 0x7F7FFFFF), F16=(4, 0xFBFF), BF16=(2, 0x7F7F))

    check_finite(index_of(file), [file])


@pytest.mark.parametrize(
    ("dtype", "pattern"),
    [
        ("F32", 0x7F800000),
        ("F32", 0xFF800000),
        ("F32", 0x7FC00001),
        ("F32", 0xFFFFFFFF),
        ("F16", 0x7C00),
        ("F16", 0xFC00),
        ("F16", 0x7C01),
        ("BF16", 0x7F80),
        ("BF16", 0xFF80),
        ("BF16", 0x7FC0),
    ],
)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(place=st.integers(0, 4), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_nan_and_infinity_are_found_at_any_place_and_any_cut(
    dtype: str, pattern: int, place: int, sizes: list[int]
) -> None:
    file = mixed(**{dtype: (place, pattern)})

    with pytest.raises(InvalidAdapter, match=f"tensor '{dtype}'"):
        check_finite(index_of(file), cut(file, sizes))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_finite_values_pass_at_any_cut(sizes: list[int]) -> None:
    # All bytes but the exponents' are set, so that a value put together of wrong halves would stand out.
    file = mixed(F32=(1, 0x807FFFFF), F16=(1, 0x83FF), BF16=(1, 0x807F))

    check_finite(index_of(file), cut(file, sizes))


def test_fewer_and_more_bytes_than_the_file_has_are_refused() -> None:
    file = mixed()

    for other in (file[:-1], file[:3], b"", file + b"\0"):
        with pytest.raises(InvalidAdapter, match=f"expected {len(file)} bytes"):
            check_finite(index_of(file), [other])


def test_memory_stays_small_whatever_the_size_of_a_chunk() -> None:
    file = safetensors_bytes({"a": ("F32", (4 << 20,), np.zeros(4 << 20, "f4").tobytes())})
    index = index_of(file)
    tracemalloc.start()
    check_finite(index, [file])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2 << 20


@pytest.mark.parametrize("place", [0, 1, 2, (1 << 18) + 5])
def test_neighbours_are_looked_at_together_and_the_one_at_fault_is_named(place: int) -> None:
    values = np.zeros((1 << 18) + 6, "<u2")
    values[[0, 1, 2, -1]] = 0xFF7F
    bounds = [("a", 0, 1), ("none", 1, 1), ("b", 1, 3), ("long", 3, len(values))]
    tensors = [TensorEntry(name, "BF16", (end - begin,), 8 + 2 * begin, 8 + 2 * end) for name, begin, end in bounds]
    check_values(tensors, values.tobytes())
    values[place] = 0x7F80
    name = next(name for name, begin, end in bounds if begin <= place < end)
    with pytest.raises(InvalidAdapter, match=f"tensor '{name}'"):
        check_values(tensors, values.tobytes())
