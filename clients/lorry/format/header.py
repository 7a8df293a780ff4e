"""The header of a safetensors file: which tensors, of which type and shape, at which bytes.

Owns the guard that runs before any library sees a byte. What it accepts, the safetensors library
accepts too; the reverse does not hold. Does not know what the tensors mean, and reads none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorry.errors import InvalidAdapter
from lorry.format.strict_json import Limits, parse_object

# The length of the header, little endian, in front of it.
LENGTH_BYTES = 8
# 4,096 tensors of 250 bytes each, with room: the largest adapters have some 2,000.
MAX_HEADER = 1 << 20
MAX_TENSORS = 4096
_MAX_DIMENSIONS = 8
# A tensor takes 6 brackets and braces, and at most 11 commas; the rest is room for metadata, a comma a key.
_LIMITS = Limits(size=MAX_HEADER, depth=3, values=MAX_TENSORS * 20)
_KEYS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# Beyond the address space of any machine; keeps products of shapes small.
_MAX_COUNT = 1 << 47


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor: bytes [start, end) of the file. dtype: `F32`, `F16` or `BF16`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorIndex:
    """All tensors in the order of their bytes, without a gap; the first starts at `data_start`."""

    tensors: tuple[TensorEntry, ...]
    data_start: int
    file_size: int


def header_length(first: bytes) -> int:
    """How many bytes the header takes, its own 8 length bytes included. Raises InvalidAdapter.

    first: the first 8 bytes of the file.
    """
    if len(first) < LENGTH_BYTES:
        raise InvalidAdapter(f"safetensors: expected at least {LENGTH_BYTES} bytes, got {len(first)}")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > MAX_HEADER:
        raise InvalidAdapter(f"safetensors: expected a header of at most {MAX_HEADER} bytes, got {length}")
    return LENGTH_BYTES + length


def parse_header(data: bytes, file_size: int) -> TensorIndex:
    """The index in `data`, the first `header_length` bytes of a file of `file_size` bytes.

    Raises InvalidAdapter. Time and memory are linear in the header, whatever it claims.
    """
    start = header_length(data)
    if len(data) != start or file_size < start:
        raise InvalidAdapter(f"safetensors: the header takes {start} bytes, got {min(len(data), file_size)}")
    if data[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise InvalidAdapter("safetensors: expected the header to begin with '{'")
    fields = parse_object(data[LENGTH_BYTES:], "safetensors header", _LIMITS)
    _check_metadata(fields.pop(_METADATA, {}))
    if len(fields) > MAX_TENSORS:
        raise InvalidAdapter(f"safetensors: expected at most {MAX_TENSORS} tensors, got {len(fields)}")
    entries = sorted(
        (_entry(name, value, start) for name, value in fields.items()), key=lambda entry: (entry.start, entry.end)
    )
    _check_coverage(entries, start, file_size)
    return TensorIndex(tuple(entries), start, file_size)


def matrix(entry: TensorEntry) -> tuple[int, int]:
    """Rows and columns. Raises InvalidAdapter where the tensor is no matrix, or has none of either."""
    if len(entry.shape) != 2 or 0 in entry.shape:  # noqa: PLR2004 - rows and columns
        raise InvalidAdapter(f"tensor {entry.name!r}: expected a matrix, got shape {list(entry.shape)}")
    return entry.shape[0], entry.shape[1]


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidAdapter(f"safetensors: expected {_METADATA} to be an object of strings")


def _entry(name: str, value: object, start: int) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != _KEYS:
        raise InvalidAdapter(f"tensor {name[:200]!r}: expected exactly dtype, shape and data_offsets")
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise InvalidAdapter(f"tensor {name[:200]!r}: expected dtype F32, F16 or BF16, got {str(dtype)[:40]!r}")
    shape, offsets = _counts(value["shape"]), _counts(value["data_offsets"])
    if shape is None or offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - begin, end
        raise InvalidAdapter(f"tensor {name[:200]!r}: expected a shape and [begin, end] of whole numbers")
    size = math.prod(shape) * ITEM_BYTES[dtype]
    if size != offsets[1] - offsets[0]:
        raise InvalidAdapter(
            f"tensor {name[:200]!r}: {dtype} {list(shape)} takes {size} bytes, its offsets {offsets[1] - offsets[0]}"
        )
    return TensorEntry(name, dtype, shape, start + offsets[0], start + offsets[1])


def _counts(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return None
    return tuple(value) if all(type(count) is int and 0 <= count <= _MAX_COUNT for count in value) else None


def _check_coverage(entries: list[TensorEntry], start: int, file_size: int) -> None:
    for entry in entries:
        if entry.start != start:
            raise InvalidAdapter(f"tensor {entry.name[:200]!r}: expected to begin at {start}, got {entry.start}")
        start = entry.end
    if start != file_size:
        raise InvalidAdapter(f"safetensors: the tensors end at byte {start}, the file at {file_size}")
