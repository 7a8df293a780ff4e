"""BlobService on the wire: the order of an upload's messages, chunks in and out.

Owns the protocol of the streams, with a few chunks of memory a stream whatever the blob's size. Does
not know where the bytes lie, or what they mean.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapter_registry.blobs.protocol import BlobStore, Upload
from adapter_registry.rpc.calls import Context
from adapter_registry.service.pool import Pool
from lorry.errors import BlobTooLarge, InvalidInput, OutOfRange, UploadIncomplete
from lorry.format.digest import check_digest
from lorry.rpc.chunks import CHUNK_BYTES, MAX_CHUNK_BYTES, MAX_DIGESTS
from lorry.v1 import blob_pb2 as pb
from lorry.v1.blob_pb2_grpc import BlobServiceServicer


class BlobServicer(BlobServiceServicer):
    """Answers BlobService; `pool` runs the store's calls."""

    def __init__(self, store: BlobStore, pool: Pool) -> None:
        self._store = store
        self._pool = pool

    async def FindMissing(self, request: pb.FindMissingRequest, context: Context) -> pb.FindMissingResponse:
        """Those of the digests that the store lacks."""
        if len(request.digests) > MAX_DIGESTS:
            raise InvalidInput(f"digests: expected at most {MAX_DIGESTS}, got {len(request.digests)}")
        digests = [check_digest(digest) for digest in request.digests]
        return pb.FindMissingResponse(missing=await self._pool.run(self._store.missing, digests))

    async def QueryUpload(self, request: pb.QueryUploadRequest, context: Context) -> pb.QueryUploadResponse:
        """How far an upload came."""
        progress = await self._pool.run(self._store.progress, check_digest(request.digest))
        return pb.QueryUploadResponse(committed_bytes=progress.committed, complete=progress.complete)

    async def Upload(
        self,
        request_iterator: AsyncIterator[pb.UploadRequest],
        context: Context,
    ) -> pb.UploadResponse:
        """Store one blob; what came of a stream that breaks is kept."""
        header = await _header(request_iterator)
        digest, size = check_digest(header.digest), header.size_bytes
        async with self._pool.opened(self._store.upload, digest, size) as upload:
            if not upload.existed:  # else the answer comes at once: the chunks are not needed
                await _receive(request_iterator, upload, self._pool)
            return pb.UploadResponse(digest=digest, size_bytes=upload.committed, existed=upload.existed)

    async def Read(self, request: pb.ReadRequest, context: Context) -> AsyncIterator[pb.ReadResponse]:
        """Stream a blob, or a part of it, in order."""
        digest, offset, limit = check_digest(request.digest), request.offset, request.limit
        if offset < 0 or limit < 0:
            raise OutOfRange(f"expected an offset and a limit of 0 or more, got {offset} and {limit}")
        async with self._pool.opened(self._store.open, digest) as blob:
            chunks = blob.chunks(offset, limit, CHUNK_BYTES)
            while (chunk := await self._pool.run(next, chunks, None)) is not None:
                yield pb.ReadResponse(offset=offset, data=bytes(chunk))
                offset += len(chunk)


async def _receive(messages: AsyncIterator[pb.UploadRequest], upload: Upload, pool: Pool) -> None:
    async for message in messages:
        kind = message.WhichOneof("message")
        if kind == "finish":
            await pool.run(upload.finish)
            return
        if kind != "chunk":
            raise InvalidInput(f"upload: expected a chunk or the finish, got {kind or 'an empty message'}")
        await pool.run(upload.write, message.chunk.offset, _checked(message.chunk.data))
    raise UploadIncomplete(
        f"upload: expected a finish behind the last chunk, the stream ended at {upload.committed} bytes",
        committed_bytes=str(upload.committed),
    )


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_CHUNK_BYTES:
        raise BlobTooLarge(f"upload: expected chunks of at most {MAX_CHUNK_BYTES} bytes, got {len(data)}")
    return data


async def _header(messages: AsyncIterator[pb.UploadRequest]) -> pb.UploadHeader:
    async for message in messages:
        if message.WhichOneof("message") == "header":
            return message.header
        break
    raise InvalidInput("upload: expected a header as the first message")
