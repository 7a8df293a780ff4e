"""A service of all four kinds of call whose behaviour a test chooses, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from lorry.rpc.channel import open_channel
from lorry.rpc.interceptor import CallWatcher
from lorry.rpc.serving import Door, Service, serving

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Act = Callable[[], Awaitable[object]]


def _service(act: Act) -> Service:
    async def answer(_request: object, _context: object) -> bytes:
        await act()
        return b"answer"

    async def stream(_request: object, _context: object) -> AsyncIterator[bytes]:
        yield b"first"
        await act()
        yield b"second"

    handlers = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(stream if kind.endswith("stream") else answer)
        for kind in KINDS
    }
    generic = grpc.method_handlers_generic_handler("test.Raiser", handlers)
    return Service("test.Raiser", lambda server: server.add_generic_rpc_handlers((generic,)))


@asynccontextmanager
async def raiser(act: Act, *watchers: CallWatcher) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server whose calls run `act`; streams send `first` before it and `second` behind it."""
    door = Door(watchers=watchers)
    async with (
        serving("127.0.0.1:0", [_service(act)], draining=asyncio.Event(), grace=0, door=door) as server,
        open_channel(server.address) as channel,
    ):
        yield channel


async def call(channel: grpc.aio.Channel, kind: str, deadline: float = 10) -> Any:
    """Make one call of the kind; the answer, or the list of answers of a stream."""
    method = getattr(channel, kind)(f"/test.Raiser/{kind}")
    request = _requests() if kind.startswith("stream") else b""
    if kind.endswith("stream"):
        return [message async for message in method(request, timeout=deadline)]
    return await method(request, timeout=deadline)


async def _requests() -> AsyncIterator[bytes]:
    yield b"request"
