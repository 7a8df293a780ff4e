"""Bytes of a blob on the wire without a copy that can be spared.

Owns the two messages that carry them, ReadResponse and UploadRequest with a chunk, written and read by
hand: the very bytes of blob.proto, so that ordinary stubs can be at the other end. Protobuf's own
classes copy a chunk into the message and out of it again. Does not know streams or stores.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from lorry.v1 import blob_pb2 as pb

# Tag bytes: field number and wire type (0 varint, 2 counted bytes).
_OFFSET = 1 << 3 | 0
_DATA = 2 << 3 | 2
_CHUNK = 2 << 3 | 2
# Seven bits in each byte of a varint; the top bit says that more come.
_BITS, _MORE = 7, 0x80
# An offset of nine bytes is below 2^63. Ten would be a negative one, which protobuf may read.
_MAX_VARINT = 9


class Piece(NamedTuple):
    """Bytes of a blob and where they begin in it. `data` looks into the message that came."""

    offset: int
    data: memoryview


class Bytes(Protocol):
    """Whatever has the two fields."""

    @property
    def offset(self) -> int:
        """Where they begin in the blob."""

    @property
    def data(self) -> bytes | memoryview:
        """The bytes."""


def read_response(piece: Bytes) -> bytes:
    """A ReadResponse, serialized."""
    return b"".join((*_fields(piece), piece.data))


def parse_read_response(message: bytes) -> Piece:
    """A ReadResponse. Raises DecodeError."""
    found = _parse(message, 0)
    if found is not None:
        return found
    parsed = pb.ReadResponse.FromString(message)
    return Piece(parsed.offset, memoryview(parsed.data))


def upload_request(message: pb.UploadRequest | Piece) -> bytes:
    """An UploadRequest, serialized; a piece stands for one with a chunk."""
    if isinstance(message, pb.UploadRequest):
        return message.SerializeToString()
    fields = _fields(message)
    length = sum(map(len, fields)) + len(message.data)
    return b"".join((bytes((_CHUNK,)), _varint(length), *fields, message.data))


def parse_upload_request(message: bytes) -> pb.UploadRequest | Piece:
    """An UploadRequest; a chunk as a piece. Raises DecodeError."""
    if message[:1] == bytes((_CHUNK,)):
        length, start = _varint_at(message, 1)
        found = _parse(message, start) if start + length == len(message) else None
        if found is not None:
            return found
    parsed = pb.UploadRequest.FromString(message)
    if parsed.WhichOneof("message") == "chunk":
        return Piece(parsed.chunk.offset, memoryview(parsed.chunk.data))
    return parsed


def _fields(piece: Bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """All of the inner message but the data: protobuf leaves a field out that is 0."""
    offset = (bytes((_OFFSET,)), _varint(piece.offset)) if piece.offset else (b"", b"")
    return *offset, bytes((_DATA,)), _varint(len(piece.data))


def _parse(message: bytes, at: int) -> Piece | None:
    """Offset and data in this order and nothing else, as everybody writes them; None for anything else."""
    offset = 0
    if message[at : at + 1] == bytes((_OFFSET,)):
        offset, at = _varint_at(message, at + 1)
    if message[at : at + 1] != bytes((_DATA,)):
        return None
    length, at = _varint_at(message, at + 1)
    return Piece(offset, memoryview(message)[at:]) if at + length == len(message) else None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= _MORE:
        out.append(value & (_MORE - 1) | _MORE)
        value >>= _BITS
    out.append(value)
    return bytes(out)


def _varint_at(message: bytes, at: int) -> tuple[int, int]:
    """The number and where it ends; beyond the message where none of up to nine bytes is there."""
    value = 0
    for count, byte in enumerate(message[at : at + _MAX_VARINT]):
        value |= (byte & (_MORE - 1)) << (_BITS * count)
        if byte < _MORE:
            return value, at + count + 1
    return 0, len(message) + 1
