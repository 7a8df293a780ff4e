"""The one interceptor that every call of both services passes.

Owns the beginning and the end of every call: its request id, which the caller gets back; what a failed
call tells its caller, a LorryError as a rich status, anything else as INTERNAL with an incident id,
whose text stays in the log; and who is told of calls. Does not know any service.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from time import perf_counter
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lorry.errors import Cancelled, DeadlineExceeded, Internal, InvalidInput, LorryError
from lorry.format.digest import is_digest
from lorry.rpc import requestid
from lorry.rpc.requestid import Call
from lorry.rpc.status import to_grpc_status

_log = logging.getLogger(__name__)

# A caller whose deadline has passed leaves a little before the server's clock says so.
_LATE_SECONDS = 0.1

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class CallWatcher(Protocol):
    """Who is told of every call."""

    def began(self, call: Call) -> None:
        """A call came."""

    def ended(self, call: Call) -> None:
        """It was answered, or the caller is gone."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler, of all four kinds. Handlers are coroutines or async generators."""

    def __init__(self, watchers: Sequence[CallWatcher] = ()) -> None:
        self._watchers = watchers

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The handler of the call, guarded; None where there is no such method."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _guarded(handler, handler_call_details.method, self._watchers)


def _guarded(handler: _Handler, method: str, watchers: Sequence[CallWatcher]) -> _Handler:
    kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    kind = next(kind for kind in kinds if getattr(handler, kind) is not None)
    behaviour, parse = getattr(handler, kind), handler.request_deserializer
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    if handler.request_streaming:
        # Messages are parsed while the behaviour reads them, so inside of the guard.
        streaming: _Handler = make(_guard(behaviour, method, watchers), parse, handler.response_serializer)
        return streaming
    # gRPC would parse a lone request before the guard and show the caller its own text.
    guarded: _Handler = make(_guard(behaviour, method, watchers, parse), None, handler.response_serializer)
    return guarded


def _guard(
    behaviour: Callable[..., Any],
    method: str,
    watchers: Sequence[CallWatcher],
    parse: Callable[[Any], object] | None = None,
) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(behaviour):

        async def generate(request: object, context: _Context) -> AsyncIterator[object]:
            async with _answered(context, method, watchers) as call:
                parsed = parse(request) if parse else request
                call.digest = _digest_in(parsed)
                first = True
                async with aclosing(behaviour(parsed, context)) as responses:
                    async for response in responses:
                        if first:
                            await _send_id(context)
                            first = False
                        yield response
                if first:
                    await _send_id(context)

        return generate

    async def answer(request: object, context: _Context) -> object:
        async with _answered(context, method, watchers) as call:
            parsed = parse(request) if parse else request
            response = await behaviour(parsed, context)
            call.digest = call.digest or _digest_in(response) or _digest_in(parsed)
            # Not with the headers: sent apart from the answer, they are one more write of every call.
            context.set_trailing_metadata(requestid.metadata())
            return response

    return answer


@asynccontextmanager
async def _answered(context: _Context, method: str, watchers: Sequence[CallWatcher]) -> AsyncIterator[Call]:
    call, since = requestid.begin(method, context), perf_counter()
    for watcher in watchers:
        watcher.began(call)
    try:
        yield call
        call.code = "OK"
    except LorryError as error:
        await _fail(context, call, error)
    except DecodeError:
        await _fail(
            context, call, InvalidInput(f"expected a protobuf message of {method}, got bytes that do not parse as one")
        )
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if context.cancelled() or (task is not None and task.cancelling()):
            raise  # the caller is gone or the server stops: gRPC ends the call
        # Something behind the call was cancelled. Unanswered, the caller would wait for its deadline.
        await _fail(context, call, Cancelled("the work behind the call was cancelled"))
    except grpc.aio.BaseError:
        # gRPC's own: an answer that was given already, or a caller that is gone
        call.code = _given(context) or call.code
        raise
    except Exception:  # noqa: BLE001  # a defect of any kind: its text is for the log, never for the caller
        await _fail(context, call, _hidden(call))
    finally:
        call.seconds = perf_counter() - since
        if call.code == Cancelled.code and _late(context):
            call.code = DeadlineExceeded.code
        for watcher in watchers:
            watcher.ended(call)


async def _fail(context: _Context, call: Call, error: LorryError) -> None:
    call.code, call.reason = error.code, error.reason
    await _send_id(context)
    await context.abort_with_status(to_grpc_status(error))


def _hidden(call: Call) -> Internal:
    incident = secrets.token_hex(8)
    _log.exception("incident %s in %s", incident, call.method)
    return Internal(
        f"internal error, incident {incident}: the server's log has the rest",
        incident=incident,
        request_id=call.request_id,
    )


async def _send_id(context: _Context) -> None:
    """Send the headers, unless they were sent or nobody is there to take them."""
    with suppress(grpc.aio.BaseError):
        await context.send_initial_metadata(requestid.metadata())


def _late(context: _Context) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining < _LATE_SECONDS


def _given(context: _Context) -> str:
    """The status that gRPC was told to answer, empty where it was told none."""
    number = context.code()
    return next((code.name for code in grpc.StatusCode if number in {code, code.value[0]} and number), "")


def _digest_in(message: object) -> str:
    """What a message is about, where that is one version or one blob."""
    for holder in (message, getattr(message, "version", None), getattr(message, "resident", None)):
        digest = getattr(holder, "digest", "")
        if isinstance(digest, str) and is_digest(digest):
            return digest
    return ""
