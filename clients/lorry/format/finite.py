"""NaN and infinities in a weights file, found while its bytes stream by.

Owns the check of every value of every tensor in bounded memory, whatever the chunks. Does not know
where the bytes come from, nor what the tensors mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorry.errors import InvalidAdapter
from lorry.format.header import ITEM_BYTES, TensorEntry, TensorIndex

# A value is NaN or infinite where all bits of its exponent are set (IEEE 754; bfloat16 is the upper half of F32).
_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
_UNSIGNED: Mapping[int, np.dtype[Any]] = {4: np.dtype("<u4"), 2: np.dtype("<u2")}
# Bytes looked at in one go: the temporary arrays stay within a core's cache.
_PIECE = 1 << 18


def check_finite(index: TensorIndex, chunks: Iterable[bytes | memoryview]) -> None:
    """Raise InvalidAdapter where a value is NaN or infinite, naming the tensor.

    chunks: the whole file from its first byte, cut anywhere; also raises where they are fewer or
    more bytes than the file has.
    """
    scan = _Scan(index)
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), _PIECE):
            scan.feed(view[start : start + _PIECE])
    scan.finish()


def check_values(tensors: Sequence[TensorEntry], data: bytes | bytearray | memoryview) -> None:
    """Raise InvalidAdapter where a value is NaN or infinite, naming the tensor.

    tensors: neighbours of one type, `data` their bytes.
    """
    dtype, begin = tensors[0].dtype, tensors[0].start
    width = ITEM_BYTES[dtype]
    bits = np.frombuffer(data, _UNSIGNED[width])
    if any(_is_endless(dtype, bits[at : at + _PIECE // width]) for at in range(0, len(bits), _PIECE // width)):
        for tensor in tensors:
            _check(tensor, bits[(tensor.start - begin) // width : (tensor.end - begin) // width])


class _Scan:
    """Where in the file the stream is, and the cut value that waits for its other bytes."""

    def __init__(self, index: TensorIndex) -> None:
        self._index = index
        self._tensors = iter(index.tensors)
        self._tensor = next(self._tensors, None)
        self._at = 0
        self._rest = b""

    def feed(self, piece: memoryview) -> None:
        """Take the next bytes of the file."""
        header = min(max(self._index.data_start - self._at, 0), len(piece))
        self._at += header
        piece = piece[header:]
        while len(piece):
            tensor = self._current()
            mine = piece[: tensor.end - self._at]
            self._look(tensor, mine)
            self._at += len(mine)
            piece = piece[len(mine) :]

    def finish(self) -> None:
        """The stream is over."""
        if self._at != self._index.file_size:
            raise InvalidAdapter(f"safetensors: expected {self._index.file_size} bytes, got {self._at}")

    def _current(self) -> TensorEntry:
        while self._tensor is not None and self._tensor.end <= self._at:
            self._tensor = next(self._tensors, None)
        if self._tensor is None:
            raise InvalidAdapter(f"safetensors: expected {self._index.file_size} bytes, got more")
        return self._tensor

    def _look(self, tensor: TensorEntry, data: memoryview) -> None:
        width = ITEM_BYTES[tensor.dtype]
        if self._rest:
            missing = width - len(self._rest)
            self._rest += bytes(data[:missing])
            data = data[missing:]
            if len(self._rest) < width:
                return
            _check(tensor, np.frombuffer(self._rest, _UNSIGNED[width]))
        whole = len(data) - len(data) % width
        _check(tensor, np.frombuffer(data[:whole], _UNSIGNED[width]))
        self._rest = bytes(data[whole:])


def _check(tensor: TensorEntry, bits: NDArray[Any]) -> None:
    if _is_endless(tensor.dtype, bits):
        raise InvalidAdapter(f"tensor {tensor.name[:200]!r}: expected finite values, got NaN or infinity")


def _is_endless(dtype: str, bits: NDArray[Any]) -> bool:
    exponent = bits.dtype.type(_EXPONENT[dtype])
    return bool((bits & exponent).max(initial=0) == exponent)
