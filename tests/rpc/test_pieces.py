from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from lorry.rpc.pieces import Piece, parse_read_response, parse_upload_request, read_response, upload_request
from lorry.v1 import blob_pb2 as pb

OFFSETS = st.integers(0, 2**63 - 1) | st.integers(0, 300)
DATA = st.binary(max_size=300)


@given(OFFSETS, DATA)
def test_what_is_written_by_hand_is_what_protobuf_writes(offset: int, data: bytes) -> None:
    piece = Piece(offset, memoryview(data))
    assert pb.ReadResponse.FromString(read_response(piece)) == pb.ReadResponse(offset=offset, data=data)
    chunk = pb.UploadRequest(chunk=pb.UploadChunk(offset=offset, data=data))
    assert pb.UploadRequest.FromString(upload_request(piece)) == chunk


@given(OFFSETS, DATA)
def test_what_protobuf_writes_is_read_by_hand(offset: int, data: bytes) -> None:
    expected = Piece(offset, memoryview(data))
    assert parse_read_response(pb.ReadResponse(offset=offset, data=data).SerializeToString()) == expected
    chunk = pb.UploadRequest(chunk=pb.UploadChunk(offset=offset, data=data))
    assert parse_upload_request(chunk.SerializeToString()) == expected


def test_data_looks_into_the_message_and_is_no_copy() -> None:
    message = pb.ReadResponse(offset=7, data=b"bytes").SerializeToString()
    assert parse_read_response(message).data.obj is message


@pytest.mark.parametrize(
    "message",
    [
        pb.UploadRequest(header=pb.UploadHeader(digest="sha256:0", size_bytes=9, namespace="team")),
        pb.UploadRequest(finish=pb.UploadFinish()),
        pb.UploadRequest(),
    ],
)
def test_the_other_messages_of_an_upload_stay_messages(message: pb.UploadRequest) -> None:
    assert parse_upload_request(upload_request(message)) == message


@given(st.binary(max_size=40))
def test_any_bytes_mean_what_protobuf_says_that_they_mean(message: bytes) -> None:
    try:
        expected = pb.ReadResponse.FromString(message)
    except DecodeError:
        with pytest.raises(DecodeError):
            parse_read_response(message)
        return
    assert parse_read_response(message) == Piece(expected.offset, memoryview(expected.data))


@pytest.mark.parametrize("offset", [-1, -(2**63)])
def test_a_negative_offset_is_read_as_one(offset: int) -> None:
    assert parse_read_response(pb.ReadResponse(offset=offset, data=b"x").SerializeToString()).offset == offset
    chunk = pb.UploadRequest(chunk=pb.UploadChunk(offset=offset, data=b"x"))
    assert parse_upload_request(chunk.SerializeToString()) == Piece(offset, memoryview(b"x"))


def test_a_field_of_a_later_release_is_passed_over() -> None:
    # Field 9, a varint.
    assert parse_read_response(b"\x08\x05\x48\x01\x12\x01x") == Piece(5, memoryview(b"x"))
