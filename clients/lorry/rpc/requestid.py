"""Which call is being answered: its request id, and what else tells it from others in logs and metrics.

Owns the metadata `x-request-id`, taken from the caller where it is fit to be printed and made where it
is not, and one context variable: lines of the log carry the id, and calls that are made to answer the
call pass it on. Does not know who writes what down, nor how a call is answered.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc.aio

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Metadata: TypeAlias = tuple[tuple[str, str], ...]

REQUEST_ID: Final = "x-request-id"
# What load balancers and tracers make, and nothing that could break a line of a log.
_FIT = re.compile(r"[A-Za-z0-9._:/-]{1,100}")
_FRESH_BYTES = 8
# Until the call has been answered: a caller that is gone gets no answer.
_UNANSWERED = "CANCELLED"


@dataclass(slots=True, eq=False)
class Call:
    """A call as it is answered. method: `lorry.v1.CatalogService/Resolve`. principal, via: who calls, and
    the worker that acts for it, once that is known. digest: what it is about, where that is one thing.
    code, reason: how it ended. seconds: how long it took, a stream to its end.
    """

    method: str
    request_id: str
    peer: str = ""
    principal: str = ""
    via: str = ""
    digest: str = ""
    code: str = _UNANSWERED
    reason: str = ""
    seconds: float = 0.0


_call: ContextVar[Call | None] = ContextVar("call", default=None)


def current() -> Call | None:
    """The call that is being answered; None for what nobody asked for."""
    return _call.get()


def known_as(principal: str, via: str = "") -> None:
    """Say of the call that is being answered who made it."""
    if (call := _call.get()) is not None:
        call.principal, call.via = principal, via


def about(digest: str) -> None:
    """Say of the call that is being answered which version or blob it is about."""
    if (call := _call.get()) is not None:
        call.digest = digest


def metadata() -> Metadata:
    """The id of the call that is being answered, to be sent with an answer or with a call of our own."""
    call = _call.get()
    return () if call is None else ((REQUEST_ID, call.request_id),)


def begin(method: str, context: _Context) -> Call:
    """What comes from here to the end of the task is done to answer this call."""
    given = [value for key, value in context.invocation_metadata() or () if key == REQUEST_ID]
    named = len(given) == 1 and isinstance(given[0], str) and _FIT.fullmatch(given[0])
    request_id = str(given[0]) if named else secrets.token_hex(_FRESH_BYTES)
    call = Call(method.removeprefix("/"), request_id, context.peer())
    _call.set(call)
    return call
