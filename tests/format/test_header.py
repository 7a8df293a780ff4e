"""The safetensors header: what is accepted, what is refused, and that the library agrees."""

import json
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry.errors import InvalidAdapter
from lorry.format.header import MAX_HEADER, MAX_TENSORS, TensorIndex, header_length, parse_header
from tests.support.adapters import adapter_bytes, safetensors_bytes, with_header


def parse(file: bytes) -> TensorIndex:
    return parse_header(file[: header_length(file[:8])], len(file))


def one(shape: object = (2, 3), begin: object = 0, end: object = 24, dtype: object = "F32", **more: object) -> bytes:
    """A file of one tensor `a` and 24 bytes of data."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}
    return with_header(json.dumps({"a": entry}).encode(), [bytes(24)])


def test_tensors_come_in_the_order_of_their_bytes_with_places_in_the_file() -> None:
    file = safetensors.numpy.save({"b": np.zeros((2, 3), "f4"), "a": np.zeros(5, "f2")})

    index = parse(file)

    assert [(entry.name, entry.dtype, entry.shape) for entry in index.tensors] == [
        ("b", "F32", (2, 3)),
        ("a", "F16", (5,)),
    ]
    assert index.tensors[0].start == index.data_start == header_length(file[:8])
    assert index.tensors[1].end == index.file_size == len(file)


def test_the_length_of_the_header_counts_its_own_8_bytes() -> None:
    file = one()

    assert header_length(file[:8]) == len(file) - 24


def test_a_tensor_without_elements_takes_no_bytes() -> None:
    entries = {
        "full": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "void": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]},
    }

    index = parse(with_header(json.dumps(entries).encode(), [bytes(4)]))

    assert [entry.name for entry in index.tensors] == ["void", "full"]


def test_the_most_tensors_that_are_allowed_are_read() -> None:
    file = safetensors_bytes({f"{i:05}": ("F16", (1,), b"\0\0") for i in range(MAX_TENSORS)})

    assert len(parse(file).tensors) == MAX_TENSORS


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"\0" * 7, "at least 8 bytes"),
        (struct.pack("<Q", MAX_HEADER + 1), f"at most {MAX_HEADER} bytes"),
        (struct.pack("<Q", 2), "takes 10 bytes, got 8"),
        (with_header(b" {}"), "begin with '{'"),
        (with_header(b"{} x"), "strict JSON"),
        (with_header(b'{"__metadata__": null}'), "object of strings"),
        (with_header(b'{"a": []}'), "exactly dtype, shape and data_offsets"),
        (one(extra=1), "exactly dtype, shape and data_offsets"),
        (one(dtype="I64"), "expected dtype F32, F16 or BF16, got 'I64'"),
        (one(dtype=["F32"]), "expected dtype"),
        (one(shape=[2, -3]), "whole numbers"),
        (one(shape=[2, 3.0]), "whole numbers"),
        (one(shape=[1 << 48, 1]), "whole numbers"),
        (one(shape=6), "whole numbers"),
        (one(shape=[6] + [1] * 8), "whole numbers"),
        (one(begin=24, end=0), "whole numbers"),
        (one(begin=True), "whole numbers"),
        (one(shape=[2, 4]), "takes 32 bytes, its offsets 24"),
        (one(shape=[1 << 40, 1 << 40, 1 << 40]), "its offsets 24"),
        (one(shape=[1, 3], begin=12), "expected to begin at"),
        (one(shape=[1, 3], end=12), "the tensors end at byte"),
        (one().replace(b"[0, 24]", b"[-0, 24]"), "out of range"),
    ],
)
def test_a_malformed_header_is_refused_with_the_reason(file: bytes, reason: str) -> None:
    with pytest.raises(InvalidAdapter, match=reason.replace("[", r"\[").replace("{", r"\{")):
        parse_header(file[: 8 + int.from_bytes(file[:8], "little")], len(file)) if len(file) > 8 else parse(file)


def test_a_file_of_another_length_than_its_header_says_is_refused() -> None:
    file = one()

    for size in (len(file) - 1, len(file) + 1, 8, 0):
        with pytest.raises(InvalidAdapter):
            parse_header(file[:-24], size)


# Mutations that know the structure: values that parsers and allocators trip over, at every place of a sound header.
_COUNTS = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([1 << 31, 1 << 32, (1 << 62) + 1, 1 << 63, 1 << 64, 10**30, 0.0, 64.0, True, None, "64", "-0"]),
)
_DTYPES = st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "BOOL", "f32", "", "F8_E4M3", "C64", None, 4])
_ENTRIES = st.fixed_dictionaries(
    {
        "dtype": _DTYPES,
        "shape": st.lists(_COUNTS, max_size=4),
        "data_offsets": st.lists(_COUNTS, min_size=1, max_size=3),
    },
    optional={"extra": st.none()},
)
_NAMES = st.one_of(st.sampled_from(["a", "b", "__metadata__", "", "\ud800", "\0", "ä"]), st.text(max_size=3))


def sound_header() -> dict[str, object]:
    return {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "b": {"dtype": "F16", "shape": [4, 2], "data_offsets": [32, 48]},
        "c": {"dtype": "BF16", "shape": [8], "data_offsets": [48, 64]},
    }


@st.composite
def mutated_headers(draw: st.DrawFn) -> bytes:
    header = sound_header()
    for _ in range(draw(st.integers(0, 2))):
        name = draw(_NAMES)
        entry = header.get(name)
        if isinstance(entry, dict) and name != "__metadata__" and draw(st.booleans()):
            field = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
            header[name] = entry | {field: draw(_ENTRIES)[field]}
        else:
            header[name] = draw(st.one_of(_ENTRIES, st.none(), st.dictionaries(_NAMES, st.text(max_size=2))))
    return json.dumps(header).replace('"-0"', "-0").encode()


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    data = bytearray(with_header(draw(mutated_headers()), [bytes(draw(st.sampled_from([64, 64, 64, 0, 63, 65])))]))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def agrees_with_the_library(file: bytes) -> bool:
    """Whether the file is accepted; where it is, the library must accept it and see the same."""
    try:
        index = parse(file)
    except InvalidAdapter:
        return False
    theirs = {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in safetensors.deserialize(file)}
    assert {entry.name: (entry.dtype, entry.shape) for entry in index.tensors} == theirs
    return True


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(mutated_files())
def test_whatever_the_guard_accepts_the_library_accepts_and_sees_alike(file: bytes) -> None:
    agrees_with_the_library(file)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=300))
def test_random_bytes_end_in_a_typed_error_or_a_sound_index(data: bytes) -> None:
    agrees_with_the_library(data)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_sound_file_is_accepted_by_both(dtype: str) -> None:
    assert agrees_with_the_library(adapter_bytes(dtype=dtype)[1])
    assert agrees_with_the_library(with_header(json.dumps(sound_header()).encode(), [bytes(64)]))
