"""A TCP proxy that misbehaves at a chosen byte: the network of the fault tests, without root.

Owns one plan: which fault the n-th connection meets. Does not know HTTP/2, gRPC or who talks
through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

_PIECE = 1 << 16
# SO_LINGER on with 0 seconds: closing sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


class Kind(Enum):
    """What happens at the byte."""

    CUT = "cut"  # both sides see the connection end
    RESET = "reset"  # both sides see RST
    STALL = "stall"  # nothing more passes, nothing ends, until the proxy's stalls are released: then as CUT
    FLIP = "flip"  # one bit of the byte is another
    DROP = "drop"  # the byte is missing
    REPEAT = "repeat"  # the byte comes twice


class Way(Enum):
    """Which direction."""

    UP = "up"  # from the client to the server
    DOWN = "down"


@dataclass(frozen=True)
class Fault:
    """At byte `at` of one direction of a connection, `kind` happens, once."""

    kind: Kind
    way: Way
    at: int


Plan = Callable[[int], Fault | None]


def always(fault: Fault) -> Plan:
    """Every connection meets it."""
    return lambda _connection: fault


def first(count: int, fault: Fault) -> Plan:
    """The first `count` connections meet it, the others are sound."""
    return lambda connection: fault if connection < count else None


@dataclass
class Proxy:
    """A running proxy. `target` may change between connections. `passed` counts bytes by direction.

    stalled: set when a connection has met a STALL. released: set it to end those connections.
    """

    address: str
    target: str
    plan: Plan
    connections: int = 0
    passed: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def tcp_proxy(target: str, plan: Plan) -> AsyncIterator[Proxy]:
    """Proxy to `host:port` on a free port of loopback for the time of the block."""
    proxy = Proxy("", target, plan)
    running: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not server.is_serving():  # it knocked before the end and comes in behind it
            writer.transport.abort()
            return
        writers.append(writer)
        task = asyncio.create_task(_serve(proxy, reader, writer, writers))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def _serve(
    proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]
) -> None:
    fault = proxy.plan(proxy.connections)
    proxy.connections += 1
    host, _, port = proxy.target.rpartition(":")
    try:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
    except OSError:
        writer.close()
        return
    writers.append(far_writer)
    up = asyncio.create_task(_pump(proxy, Way.UP, fault, reader, far_writer))
    down = asyncio.create_task(_pump(proxy, Way.DOWN, fault, far_reader, writer))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        reset = fault is not None and fault.kind is Kind.RESET
        for end in (writer, far_writer):
            _close(end, reset=reset)


async def _pump(
    proxy: Proxy, way: Way, fault: Fault | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    due = fault if fault is not None and fault.way is way else None
    position = 0
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_PIECE):
            position += len(data)
            if due is None or position <= due.at:
                await _pass(proxy, way, writer, data)
                continue
            here = due.at - (position - len(data))
            await _pass(proxy, way, writer, _damaged(due.kind, data, here))
            if due.kind is Kind.STALL:
                proxy.stalled.set()
                await proxy.released.wait()
            if due.kind in {Kind.CUT, Kind.RESET, Kind.STALL}:
                return
            due = None


async def _pass(proxy: Proxy, way: Way, writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    proxy.passed[way] += len(data)


def _damaged(kind: Kind, data: bytes, here: int) -> bytes:
    before, byte, after = data[:here], data[here : here + 1], data[here + 1 :]
    middle = {Kind.FLIP: bytes([byte[0] ^ 0x10]), Kind.DROP: b"", Kind.REPEAT: byte * 2}
    return before + middle[kind] + after if kind in middle else before


def _close(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.close()
