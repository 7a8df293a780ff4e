"""The messages of an upload, one by one. Knows the contract, no server."""

from __future__ import annotations

from lorry.rpc.chunks import CHUNK_BYTES
from lorry.v1 import blob_pb2

FINISH = blob_pb2.UploadRequest(finish=blob_pb2.UploadFinish())


def header(digest: str, size: int, namespace: str = "") -> blob_pb2.UploadRequest:
    """The first message of an upload."""
    return blob_pb2.UploadRequest(header=blob_pb2.UploadHeader(digest=digest, size_bytes=size, namespace=namespace))


def chunk(offset: int, data: bytes) -> blob_pb2.UploadRequest:
    """A piece of an upload."""
    return blob_pb2.UploadRequest(chunk=blob_pb2.UploadChunk(offset=offset, data=data))


def chunks(data: bytes, start: int = 0, size: int = CHUNK_BYTES) -> list[blob_pb2.UploadRequest]:
    """All pieces from `start` on."""
    return [chunk(offset, data[offset : offset + size]) for offset in range(start, len(data), size)]
