"""The caller's side of errors: what a stub raises becomes the class that the server raised.

Owns the translation around calls and streams. Does not know which calls there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
import grpc.aio

from lorry.rpc.status import from_rpc_error

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@contextmanager
def translated() -> Iterator[None]:
    """Around any stub call or stream: raises LorryError's classes in place of grpc.RpcError.

    A cancelled task still ends with asyncio.CancelledError.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


async def translated_stream(call: grpc.aio.UnaryStreamCall[_Request, _Response]) -> AsyncIterator[_Response]:
    """The messages of a server stream, its errors translated.

    The call is cancelled when the generator is closed early: wrap it in `contextlib.aclosing`
    where the stream may be left before its end. Raises what the server raised.
    """
    try:
        with translated():
            async for message in call:
                yield message
    finally:
        call.cancel()
