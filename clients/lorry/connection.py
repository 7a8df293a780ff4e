"""What every client of Lorry is made of: one channel, one deadline, errors as lorry.errors.

Owns the channel's life, deadlines, paging, and the guard against a stream that falls silent. Does
not know any service, nor when a failed call is worth another try.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Protocol, Self, TypeVar, Unpack

import grpc.aio
from google.protobuf.message import DecodeError

from lorry.errors import DeadlineExceeded, Unavailable
from lorry.rpc.calls import translated
from lorry.rpc.channel import open_channel
from lorry.rpc.credentials import Credentials

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
T = TypeVar("T")

# Longest silence in the midst of a transfer. Longer than the 25 s in which keepalive ends a dead
# connection: trying again before that would meet the same one.
SILENCE_SECONDS = 30.0


class PageRequest(Protocol):
    """A request that asks for a page."""

    page_token: str


class Page(Protocol):
    """A page that names the next one."""

    next_page_token: str


PageRequestT = TypeVar("PageRequestT", bound=PageRequest)
PageT = TypeVar("PageT", bound=Page)


@asynccontextmanager
async def within(seconds: float | None, what: str) -> AsyncIterator[None]:
    """Cancel the block after so many seconds and raise DeadlineExceeded; None means never."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"{what}: not done within {seconds:g} s") from error


@asynccontextmanager
async def heard_within(seconds: float | None, what: str) -> AsyncIterator[None]:
    """Raise Unavailable, which is worth another try, where the peer stays silent for so long."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Unavailable(f"{what}: the peer was silent for {seconds:g} s") from error


async def received(
    call: grpc.aio.UnaryStreamCall[RequestT, ResponseT], *, silence: float | None = None
) -> AsyncGenerator[ResponseT, None]:
    """The messages of a server stream; the call is cancelled when this generator is left early.

    Raises what the server raised, and Unavailable after `silence` seconds without a message.
    """
    messages = aiter(call)
    try:
        with translated():
            while True:
                async with heard_within(silence, "stream"):
                    message = await anext(messages, None)
                if message is None:
                    return
                yield message
    except DecodeError as error:
        raise Unavailable(f"the stream came garbled: {error}") from error
    finally:
        call.cancel()


class Connection:
    """A channel to `host:port` with a deadline for its calls.

    Made inside of a running event loop and used there alone; connects at the first call. `timeout`
    in seconds bounds each plain call; streams and transfers have their own. `credentials`: token=,
    root_certificates= and certificate=; see lorry.rpc.credentials.Credentials.
    """

    def __init__(self, address: str, *, timeout: float, **credentials: Unpack[Credentials]) -> None:
        asyncio.get_running_loop()  # a channel made outside of it would belong to no loop or the wrong one
        self.address = address
        self._timeout = timeout
        self._channel = open_channel(address, **credentials)

    def within(self, timeout: float) -> Self:
        """The same connection with another deadline, in seconds: `await client.within(2).resolve(...)`."""
        other = copy.copy(self)
        other._timeout = timeout  # noqa: SLF001 - a copy of our own
        return other

    async def close(self) -> None:
        """End the channel and every call on it."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT
    ) -> ResponseT:
        try:
            with translated():
                return await _awaited(method(request, timeout=self._timeout))
        except DecodeError as error:
            raise Unavailable(f"the answer came garbled: {error}") from error

    async def _listed(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[PageRequestT, PageT],
        request: PageRequestT,
        entries: Callable[[PageT], Iterable[T]],
    ) -> AsyncIterator[T]:
        while True:
            page = await self._call(method, request)
            for entry in entries(page):
                yield entry
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


async def _awaited(call: Awaitable[ResponseT]) -> ResponseT:
    return await call
