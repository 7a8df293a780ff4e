"""BlobService on the wire: the order of an upload's messages, pieces in and out.

Owns the protocol of the streams. Does not know where the bytes lie, whose they are, or what they mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from adapter_registry.rpc.access_guard import judge_again
from adapter_registry.rpc.calls import Context
from adapter_registry.service import stored
from adapter_registry.service.stored import StoredBlobs
from lorry.errors import BlobTooLarge, InvalidInput, OutOfRange, Unavailable, UploadIncomplete
from lorry.format.digest import check_digest
from lorry.format.reference import DEFAULT_NAMESPACE, check_name
from lorry.rpc.chunks import MAX_CHUNK_BYTES, MAX_DIGESTS
from lorry.rpc.pieces import Piece, parse_upload_request, read_response
from lorry.v1 import blob_pb2 as pb

# What the streams of an upload consist of: a chunk comes as a piece.
Message = pb.UploadRequest | Piece
# Between two looks at whether who reads may still do so: a large blob takes minutes.
_JUDGED_SECONDS = 1.0
# An upload whose sender says nothing for so long is broken off: it holds a file, and its place among the caller's.
# Senders of ours take a connection for dead sooner.
_SILENCE_SECONDS = 60.0


class BlobServicer:
    """Answers BlobService; chunks are pieces, not messages: see `add_blob_service`."""

    def __init__(self, blobs: StoredBlobs) -> None:
        self._blobs = blobs

    async def FindMissing(self, request: pb.FindMissingRequest, context: Context) -> pb.FindMissingResponse:
        """Those of the digests that the namespace has to send."""
        if len(request.digests) > MAX_DIGESTS:
            raise InvalidInput(f"digests: expected at most {MAX_DIGESTS}, got {len(request.digests)}")
        digests = [check_digest(digest) for digest in request.digests]
        return pb.FindMissingResponse(missing=await self._blobs.find_missing(digests, _namespace(request.namespace)))

    async def QueryUpload(self, request: pb.QueryUploadRequest, context: Context) -> pb.QueryUploadResponse:
        """How far an upload came."""
        progress = await self._blobs.progress(check_digest(request.digest), _namespace(request.namespace))
        return pb.QueryUploadResponse(committed_bytes=progress.committed, complete=progress.complete)

    async def Upload(self, request_iterator: AsyncIterator[Message], context: Context) -> pb.UploadResponse:
        """Store one blob; what came of a stream that breaks is kept."""
        header = await _header(request_iterator)
        digest, namespace = check_digest(header.digest), _namespace(header.namespace)
        async with aclosing(_pieces(request_iterator)) as pieces:
            size, existed = await self._blobs.receive(digest, header.size_bytes, namespace, pieces)
        return pb.UploadResponse(digest=digest, size_bytes=size, existed=existed)

    async def Read(self, request: pb.ReadRequest, context: Context) -> AsyncIterator[stored.Piece]:
        """Stream a blob, or a part of it, in order."""
        digest, offset, limit = check_digest(request.digest), request.offset, request.limit
        if offset < 0 or limit < 0:
            raise OutOfRange(f"expected an offset and a limit of 0 or more, got {offset} and {limit}")
        async with aclosing(self._blobs.read(digest, offset, limit)) as pieces:
            judged = time.monotonic()
            async for piece in pieces:
                if time.monotonic() - judged > _JUDGED_SECONDS:
                    await judge_again()
                    judged = time.monotonic()
                yield piece


def add_blob_service(servicer: BlobServicer, server: grpc.aio.Server) -> None:
    """As the generated function does, but chunks pass without protobuf's copies of them."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "FindMissing": grpc.unary_unary_rpc_method_handler(
            servicer.FindMissing, pb.FindMissingRequest.FromString, pb.FindMissingResponse.SerializeToString
        ),
        "QueryUpload": grpc.unary_unary_rpc_method_handler(
            servicer.QueryUpload, pb.QueryUploadRequest.FromString, pb.QueryUploadResponse.SerializeToString
        ),
        "Upload": grpc.stream_unary_rpc_method_handler(
            servicer.Upload, parse_upload_request, pb.UploadResponse.SerializeToString
        ),
        "Read": grpc.unary_stream_rpc_method_handler(servicer.Read, pb.ReadRequest.FromString, read_response),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lorry.v1.BlobService", handlers),))


def _namespace(text: str) -> str:
    return check_name(text or DEFAULT_NAMESPACE, "namespace")


async def _header(messages: AsyncIterator[Message]) -> pb.UploadHeader:
    message = await _next(messages)
    if isinstance(message, pb.UploadRequest) and message.WhichOneof("message") == "header":
        return message.header
    raise InvalidInput("upload: expected a header as the first message")


async def _pieces(messages: AsyncIterator[Message]) -> AsyncGenerator[stored.Piece, None]:
    """The chunks up to the finish."""
    while (message := await _next(messages)) is not None:
        if not isinstance(message, pb.UploadRequest):
            yield _checked(message)
            continue
        kind = message.WhichOneof("message")
        if kind == "finish":
            await judge_again()  # what was sent is kept by who may keep it now
            return
        raise InvalidInput(f"upload: expected a chunk or the finish, got {kind or 'an empty message'}")
    raise UploadIncomplete("upload: expected a finish behind the last chunk, the stream ended without one")


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    try:
        async with asyncio.timeout(_SILENCE_SECONDS):
            return await anext(messages, None)
    except TimeoutError as error:
        raise Unavailable(
            f"upload: expected a message within {_SILENCE_SECONDS:g} s, none came; what came before is kept"
        ) from error


def _checked(piece: Piece) -> stored.Piece:
    if len(piece.data) > MAX_CHUNK_BYTES:
        raise BlobTooLarge(f"upload: expected chunks of at most {MAX_CHUNK_BYTES} bytes, got {len(piece.data)}")
    return stored.Piece(*piece)
