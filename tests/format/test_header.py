"""The safetensors header: what is accepted, what is refused, and that the library agrees."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from lorry.errors import InvalidAdapter
from lorry.format.header import MAX_HEADER, MAX_TENSORS, TensorIndex, header_length, parse_header
from tests.support.adapters import safetensors_bytes, with_header


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
