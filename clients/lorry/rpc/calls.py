"""The caller's side of errors: what a stub raises becomes the class that the server raised.

Owns the translation around calls and streams. Does not know which calls there are, nor which are
worth another try.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from lorry.rpc.status import from_rpc_error


@contextmanager
def translated() -> Iterator[None]:
    """Around any stub call or stream: raises LorryError's classes in place of grpc.RpcError.

    A cancelled task still ends with asyncio.CancelledError.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
