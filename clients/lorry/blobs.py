"""The blob store's calls, and transfers that go on where they were cut.

Owns resumption of uploads and downloads: offsets, silence, retries, verification. Holds a chunk in
memory, never a file. Does not know adapters or versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from functools import partial
from pathlib import Path
from typing import IO, TypeAlias, Unpack

import grpc.aio

from lorry.connection import SILENCE_SECONDS, Connection, heard_within, received, within
from lorry.errors import DeadlineExceeded, DigestMismatch, Internal, OffsetMismatch, Unavailable
from lorry.overlap import ahead, behind
from lorry.partfile import PartFile, Sink
from lorry.retry import Patience
from lorry.rpc.calls import translated
from lorry.rpc.chunks import CHUNK_BYTES, MAX_DIGESTS
from lorry.rpc.credentials import Credentials
from lorry.rpc.pieces import Piece, parse_read_response, upload_request
from lorry.v1 import blob_pb2 as pb
from lorry.v1.blob_pb2_grpc import BlobServiceStub

_Uploading: TypeAlias = "grpc.aio.StreamUnaryCall[pb.UploadRequest | Piece, pb.UploadResponse]"

# Told the file's name, the bytes of it that are there, and its size; from the event loop, so keep it short.
Progress = Callable[[str, int, int], None]

# A slow disk, or a bucket: what goes on or is done may be read again before there is another word.
_BYTES_PER_SECOND = 20e6

# What grpc.aio says when a write failed and the reason came too late to be told.
_CORE_ERROR = "Internal error from Core"


def silent(_name: str, _done: int, _size: int) -> None:
    """Nobody watches."""


class BlobCalls(Connection):
    """BlobService. Every method raises what its rpc documents, as a class of lorry.errors."""

    def __init__(self, address: str, *, timeout: float, **credentials: Unpack[Credentials]) -> None:
        super().__init__(address, timeout=timeout, **credentials)
        self._blobs = BlobServiceStub(self._channel)
        # The two calls that carry bytes, without protobuf's copies of them.
        self._uploading = self._channel.stream_unary(
            "/lorry.v1.BlobService/Upload",
            request_serializer=upload_request,
            response_deserializer=pb.UploadResponse.FromString,
        )
        self._reading = self._channel.unary_stream(
            "/lorry.v1.BlobService/Read",
            request_serializer=pb.ReadRequest.SerializeToString,
            response_deserializer=parse_read_response,
        )

    async def find_missing(self, digests: Sequence[str], *, namespace: str = "") -> list[str]:
        """Those of the digests that have to be sent before the namespace may publish them, in order."""
        missing: list[str] = []
        for start in range(0, len(digests), MAX_DIGESTS):
            request = pb.FindMissingRequest(digests=digests[start : start + MAX_DIGESTS], namespace=namespace)
            missing += (await self._call(self._blobs.FindMissing, request)).missing
        return missing

    async def query_upload(self, digest: str, *, namespace: str = "") -> pb.QueryUploadResponse:
        """How far the namespace's upload came."""
        return await self._call(self._blobs.QueryUpload, pb.QueryUploadRequest(digest=digest, namespace=namespace))

    async def upload(
        self,
        path: Path,
        digest: str,
        *,
        namespace: str = "",
        progress: Progress = silent,
        timeout: float | None = None,  # noqa: ASYNC109 - callers of the sync face have no asyncio.timeout
    ) -> None:
        """Store a file for a namespace, from where an earlier upload was cut; `timeout` bounds all of it, in seconds.

        Raises QuotaExceeded before a byte is sent, DigestMismatch where the file is not what its
        digest says, the last Unavailable where the registry stays away, DeadlineExceeded, OSError.
        """
        source = _Source(path, digest, namespace, progress)
        async with within(timeout, f"upload of {path.name}"):
            async for attempt in Patience(lambda: source.stored).retrying():
                with attempt:
                    state = await self._state_of(digest, namespace)
                    # Who was refused knows better: what was told may be of a stream that is still open elsewhere.
                    kept = state.committed_bytes if source.wanted is None else source.wanted
                    source.wanted = None
                    source.stored = source.size if state.complete else kept
                    source.advance(source.stored)
                    if not state.complete:
                        await self._send(source)

    async def _state_of(self, digest: str, namespace: str) -> pb.QueryUploadResponse:
        """How far an upload came, where the call's own deadline is no end: a store under load answers late."""
        try:
            return await self.query_upload(digest, namespace=namespace)
        except DeadlineExceeded as error:
            raise Unavailable(f"the registry did not say in time how far the upload came: {error.message}") from error

    def read(self, digest: str, *, offset: int = 0, limit: int = 0) -> AsyncGenerator[Piece, None]:
        """A blob or a part of it in pieces of up to 1 MiB, not verified, not resumed; `download` does both."""
        call = self._reading(pb.ReadRequest(digest=digest, offset=offset, limit=limit))
        return received(call, silence=SILENCE_SECONDS)

    async def download(
        self,
        digest: str,
        size: int,
        into: Path,
        *,
        progress: Progress = silent,
        timeout: float | None = None,  # noqa: ASYNC109 - likewise
    ) -> None:
        """Write a blob of `size` bytes to `into`: verified, durable, there whole or not at all.

        Resumes a cut at the kept offset and starts anew once where the bytes are damaged.
        `timeout` in seconds bounds all of it. Raises BlobNotFound, DigestMismatch, the last
        Unavailable where the registry stays away, DeadlineExceeded, OSError.
        """
        async with within(timeout, f"download of {into.name}"):
            part = await asyncio.to_thread(PartFile, into, digest, size)
            progress(into.name, 0, size)
            try:
                await self.receive(part, digest, into.name, progress=progress)
            finally:
                part.discard()

    async def receive(self, into: Sink, digest: str, name: str, *, progress: Progress = silent) -> None:
        """Stream a blob into a sink and commit it; `name` is for messages. Resumes and raises as `download`."""
        async for attempt in Patience(lambda: into.position).retrying():
            with attempt:
                await self._receive(into, digest, progress, name)

    async def _receive(self, part: Sink, digest: str, progress: Progress, name: str) -> None:
        try:
            if part.position < part.size:

                async def append(piece: Piece) -> None:
                    await asyncio.to_thread(part.append, piece.offset, piece.data)
                    progress(name, part.position, part.size)

                async with aclosing(self.read(digest, offset=part.position)) as pieces:
                    await behind(append, pieces)
            if part.position < part.size:
                raise Unavailable(f"{name}: the stream ended after {part.position} of {part.size} bytes")
            await asyncio.to_thread(part.commit)
        except DigestMismatch:
            part.restart()
            raise

    async def _send(self, source: _Source) -> None:
        call = self._uploading()
        try:
            with translated():
                # A write fails once the call has ended, and does not say why; the call itself does.
                with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    await source.write_to(call)
                # The registry makes all of it durable before it answers; that the connection lives, keepalive sees to.
                async with source.heard(source.size):
                    await call
        except OffsetMismatch as error:
            offset = error.metadata.get("committed_bytes", "")
            source.wanted = int(offset) if offset.isdecimal() and int(offset) <= source.size else None
            raise
        except Internal as error:
            if error.message.endswith(_CORE_ERROR):
                raise Unavailable(f"{source.path.name}: the connection broke while bytes were sent") from error
            raise
        finally:
            call.cancel()
        source.advance(source.size)


class _Source:
    """A file on its way out: `sent` bytes of it have left, `stored` are those that the registry confirmed, `wanted`:
    where it wanted to go on when it refused the last ones.
    """

    def __init__(self, path: Path, digest: str, namespace: str, progress: Progress) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.sent = 0
        self.stored = 0
        self.wanted: int | None = None
        self._header = pb.UploadHeader(digest=digest, size_bytes=self.size, namespace=namespace)
        self._progress = progress

    def advance(self, sent: int) -> None:
        """So many bytes have left."""
        self.sent = sent
        self._progress(self.path.name, sent, self.size)

    async def write_to(self, call: _Uploading) -> None:
        """Header, the bytes behind `sent`, finish. Raises asyncio.InvalidStateError where the call has ended."""
        await self._write(call, pb.UploadRequest(header=self._header))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.sent)
            async with aclosing(ahead(partial(_chunk, file))) as chunks:
                async for data in chunks:
                    await self._write(call, Piece(self.sent, memoryview(data)))
                    self.advance(self.sent + len(data))
        await self._write(call, pb.UploadRequest(finish=pb.UploadFinish()))
        await call.done_writing()

    async def _write(self, call: _Uploading, message: pb.UploadRequest | Piece) -> None:
        async with self.heard(self.stored):
            await call.write(message)

    def heard(self, size: int) -> AbstractAsyncContextManager[None]:
        """Raises Unavailable where the registry says nothing for longer than it may take with so many bytes."""
        return heard_within(SILENCE_SECONDS + size / _BYTES_PER_SECOND, f"upload of {self.path.name}")


async def _chunk(file: IO[bytes]) -> bytes | None:
    """The next bytes of the file, None at its end."""
    return await asyncio.to_thread(file.read, CHUNK_BYTES) or None
