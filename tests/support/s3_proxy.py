"""An HTTP proxy in front of an S3 server that does to a request what a plan wants.

Owns the passing on, each request on a connection of its own: everything but Connection and Expect stays
as it came, Host included, so that signatures hold. Runs in a thread of its own, so that those who wait
for it may block. Does not know what the faults are to prove.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support.s3_proxy_faults import Fault, Kind, Plan, Request

# One SigV4 head is 2 KB.
_HEAD_BYTES = 1 << 16
# Shorter than any client's patience in these tests.
_LATE_SECONDS = 0.2
_HOP_BY_HOP = {"connection", "expect"}


class S3Proxy:
    """A running proxy. plans: by bucket; a bucket without a plan is passed on soundly."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self.endpoint = ""
        self.plans: dict[str, Plan] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, ready: threading.Event) -> None:
        """Until `stop`."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_BYTES)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await self._stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def stop(self) -> None:
        """From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            request = await _request(reader, writer)
            plan = self.plans.get(request.bucket)
            if plan is None or (spot := plan.hit(request)) is None:
                answer = await self._asked(request)
            else:
                answer = await self._with(plan.fault, spot, request, reader)
            writer.write(answer)
            await writer.drain()
            writer.close()
        except (OSError, IncompleteReadError):
            pass  # one of the two went away: so does the other
        finally:
            if not writer.is_closing():
                writer.transport.abort()

    async def _with(self, fault: Fault, spot: float, request: Request, reader: StreamReader) -> bytes:
        """What the client gets, which may be cut or nothing."""
        match fault.kind:
            case Kind.CUT_UP:
                await self._send_some(request, int(spot * len(request.body)))
                return b""
            case Kind.WRONG_UP:
                wrong = Request(request.method, request.target, request.headers, _flipped(request.body, spot))
                return await self._asked(wrong)
            case Kind.TWICE:
                await self._asked(request)
            case Kind.LATE:
                await asyncio.sleep(_LATE_SECONDS)
            case Kind.CUT_DOWN:
                answer = await self._asked(request)
                return answer[: int(spot * len(answer))]
            case Kind.WRONG_DOWN:
                head, gap, body = (await self._asked(request)).partition(b"\r\n\r\n")
                return head + gap + _flipped(body, spot)
            case _:
                return await self._refused(fault, request, reader)
        return await self._asked(request)

    async def _refused(self, fault: Fault, request: Request, reader: StreamReader) -> bytes:
        if fault.behind:
            await self._asked(request)
        if fault.kind is Kind.HANG:
            await reader.read()  # the client's patience ends first
        return _ERRORS[fault.kind](request) if fault.kind in _ERRORS else b""

    async def _asked(self, request: Request) -> bytes:
        """The server's whole answer."""
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        try:
            writer.write(_head(request) + request.body)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()

    async def _send_some(self, request: Request, length: int) -> None:
        _, writer = await asyncio.open_connection(self._host, int(self._port))
        try:
            writer.write(_head(request) + request.body[:length])
            await writer.drain()
        finally:
            writer.close()


@contextmanager
def s3_proxy(endpoint: str | None) -> Iterator[S3Proxy]:
    """A proxy to an S3 server for the time of the block."""
    proxy, ready = S3Proxy(urlsplit(endpoint or "").netloc), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(ready)), name="s3-proxy")
    thread.start()
    try:
        ready.wait()
        yield proxy
    finally:
        proxy.stop()
        thread.join()


async def _request(reader: StreamReader, writer: StreamWriter) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "expect" in headers:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body)


def _head(request: Request) -> bytes:
    lines = [f"{name}: {value}" for name, value in request.headers.items() if name not in _HOP_BY_HOP]
    return "\r\n".join([f"{request.method} {request.target} HTTP/1.1", *lines, "Connection: close", "", ""]).encode(
        "latin-1"
    )


def _flipped(data: bytes, spot: float) -> bytes:
    """The bytes, one bit of them changed; no bytes stay none."""
    if not data:
        return data
    at = min(int(spot * len(data)), len(data) - 1)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _error(status: str, code: str, request: Request) -> bytes:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>test</Message></Error>'
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return (head + "\r\n" + ("" if request.method == "HEAD" else body)).encode()


_ERRORS = {
    Kind.ERROR: lambda request: _error("500 Internal Server Error", "InternalError", request),
    Kind.SLOW_DOWN: lambda request: _error("503 Slow Down", "SlowDown", request),
    Kind.ERROR_IN_200: lambda request: _error("200 OK", "InternalError", request),
}
