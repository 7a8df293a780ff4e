"""The blob store's calls, and transfers that go on where they were cut.

Owns resumption of uploads and downloads: offsets, silence, retries, verification. Holds a chunk in
memory, never a file. Does not know adapters or versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import grpc.aio

from lorry.connection import SILENCE_SECONDS, Connection, heard_within, received, within
from lorry.errors import DigestMismatch, Internal, Unavailable
from lorry.partfile import PartFile
from lorry.retry import Patience
from lorry.rpc.calls import translated
from lorry.rpc.chunks import CHUNK_BYTES, MAX_DIGESTS
from lorry.v1 import blob_pb2 as pb
from lorry.v1.blob_pb2_grpc import BlobServiceStub

# Told the file's name, the bytes of it that are there, and its size; from the event loop, so keep it short.
Progress = Callable[[str, int, int], None]

# What grpc.aio says when a write failed and the reason came too late to be told.
_CORE_ERROR = "Internal error from Core"


def silent(_name: str, _done: int, _size: int) -> None:
    """Nobody watches."""


class BlobCalls(Connection):
    """BlobService. Every method raises what its rpc documents, as a class of lorry.errors."""

    def __init__(self, address: str, *, timeout: float, root_certificates: Path | None = None) -> None:
        super().__init__(address, timeout=timeout, root_certificates=root_certificates)
        self._blobs = BlobServiceStub(self._channel)

    async def find_missing(self, digests: Sequence[str]) -> list[str]:
        """Those of the digests that the registry lacks, in order."""
        missing: list[str] = []
        for start in range(0, len(digests), MAX_DIGESTS):
            request = pb.FindMissingRequest(digests=digests[start : start + MAX_DIGESTS])
            missing += (await self._call(self._blobs.FindMissing, request)).missing
        return missing

    async def query_upload(self, digest: str) -> pb.QueryUploadResponse:
        """How far an upload came."""
        return await self._call(self._blobs.QueryUpload, pb.QueryUploadRequest(digest=digest))

    async def upload(
        self,
        path: Path,
        digest: str,
        *,
        progress: Progress = silent,
        timeout: float | None = None,  # noqa: ASYNC109 - callers of the sync face have no asyncio.timeout
    ) -> None:
        """Store a file, from where an earlier upload was cut. `timeout` in seconds bounds all of it.

        Raises DigestMismatch where the file is not what its digest says, the last Unavailable where
        the registry stays away, DeadlineExceeded, OSError.
        """
        source = _Source(path, digest, progress)
        async with within(timeout, f"upload of {path.name}"):
            async for attempt in Patience(lambda: source.stored).retrying():
                with attempt:
                    state = await self.query_upload(digest)
                    source.stored = source.size if state.complete else state.committed_bytes
                    source.advance(source.stored)
                    if not state.complete:
                        await self._send(source)

    def read(self, digest: str, *, offset: int = 0, limit: int = 0) -> AsyncGenerator[pb.ReadResponse, None]:
        """A blob or a part of it in pieces of up to 1 MiB, not verified, not resumed; `download` does both."""
        call = self._blobs.Read(pb.ReadRequest(digest=digest, offset=offset, limit=limit))
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
            try:
                async for attempt in Patience(lambda: part.position).retrying():
                    with attempt:
                        await self._receive(part, digest, progress, into.name)
            finally:
                part.discard()

    async def _receive(self, part: PartFile, digest: str, progress: Progress, name: str) -> None:
        try:
            if part.position < part.size:
                async with aclosing(self.read(digest, offset=part.position)) as pieces:
                    async for piece in pieces:
                        await asyncio.to_thread(part.append, piece.offset, piece.data)
                        progress(name, part.position, part.size)
            if part.position < part.size:
                raise Unavailable(f"{name}: the stream ended after {part.position} of {part.size} bytes")
            await asyncio.to_thread(part.commit)
        except DigestMismatch:
            part.restart()
            raise

    async def _send(self, source: _Source) -> None:
        call = self._blobs.Upload()
        try:
            with translated():
                # A write fails once the call has ended, and does not say why; the call itself does.
                with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    await source.write_to(call)
                async with heard_within(SILENCE_SECONDS, f"upload of {source.path.name}"):
                    await call
        except Internal as error:
            if error.message.endswith(_CORE_ERROR):
                raise Unavailable(f"{source.path.name}: the connection broke while bytes were sent") from error
            raise
        finally:
            call.cancel()
        source.advance(source.size)


class _Source:
    """A file on its way out: `sent` bytes of it have left, `stored` are those that the registry confirmed."""

    def __init__(self, path: Path, digest: str, progress: Progress) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.sent = 0
        self.stored = 0
        self._digest = digest
        self._progress = progress

    def advance(self, sent: int) -> None:
        """So many bytes have left."""
        self.sent = sent
        self._progress(self.path.name, sent, self.size)

    async def write_to(self, call: grpc.aio.StreamUnaryCall[pb.UploadRequest, pb.UploadResponse]) -> None:
        """Header, the bytes behind `sent`, finish. Raises asyncio.InvalidStateError where the call has ended."""
        header = pb.UploadHeader(digest=self._digest, size_bytes=self.size)
        await self._write(call, pb.UploadRequest(header=header))
        with self.path.open("rb") as file:
            file.seek(self.sent)
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                chunk = pb.UploadChunk(offset=self.sent, data=data)
                await self._write(call, pb.UploadRequest(chunk=chunk))
                self.advance(self.sent + len(data))
        await self._write(call, pb.UploadRequest(finish=pb.UploadFinish()))
        await call.done_writing()

    async def _write(
        self, call: grpc.aio.StreamUnaryCall[pb.UploadRequest, pb.UploadResponse], message: pb.UploadRequest
    ) -> None:
        async with heard_within(SILENCE_SECONDS, f"upload of {self.path.name}"):
            await call.write(message)
