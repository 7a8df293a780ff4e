"""The one interceptor that every call of both services passes.

Owns what a failed call tells its caller: a LorryError as a rich status, anything else as INTERNAL
with an incident id, whose text stays in the log. Does not know any service.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lorry.errors import Cancelled, Internal, InvalidInput, LorryError
from lorry.rpc.status import to_grpc_status

_log = logging.getLogger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler, of all four kinds. Handlers are coroutines or async generators."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The handler of the call, guarded; None where there is no such method."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _guarded(handler, handler_call_details.method)


def _guarded(handler: _Handler, method: str) -> _Handler:
    kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    kind = next(kind for kind in kinds if getattr(handler, kind) is not None)
    behaviour, parse = getattr(handler, kind), handler.request_deserializer
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    if handler.request_streaming:
        # Messages are parsed while the behaviour reads them, so inside of the guard.
        streaming: _Handler = make(_guard(behaviour, method), parse, handler.response_serializer)
        return streaming
    # gRPC would parse a lone request before the guard and show the caller its own text.
    guarded: _Handler = make(_guard(behaviour, method, parse), None, handler.response_serializer)
    return guarded


def _guard(
    behaviour: Callable[..., Any], method: str, parse: Callable[[Any], object] | None = None
) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(behaviour):

        async def generate(request: object, context: _Context) -> AsyncIterator[object]:
            async with _answered(context, method):
                parsed = parse(request) if parse else request
                async with aclosing(behaviour(parsed, context)) as responses:
                    async for response in responses:
                        yield response

        return generate

    async def answer(request: object, context: _Context) -> object:
        async with _answered(context, method):
            return await behaviour(parse(request) if parse else request, context)

    return answer


@asynccontextmanager
async def _answered(context: _Context, method: str) -> AsyncIterator[None]:
    try:
        yield
    except LorryError as error:
        await context.abort_with_status(to_grpc_status(error))
    except DecodeError:
        malformed = InvalidInput(f"expected a protobuf message of {method}, got bytes that do not parse as one")
        await context.abort_with_status(to_grpc_status(malformed))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if context.cancelled() or (task is not None and task.cancelling()):
            raise  # the caller is gone or the server stops: gRPC ends the call
        # Something behind the call was cancelled. Unanswered, the caller would wait for its deadline.
        await context.abort_with_status(to_grpc_status(Cancelled("the work behind the call was cancelled")))
    except grpc.aio.BaseError:
        raise  # gRPC's own: an answer that was given already, or a caller that is gone
    except Exception:  # noqa: BLE001  # a defect of any kind: its text is for the log, never for the caller
        incident = secrets.token_hex(8)
        _log.exception("incident %s in %s", incident, method)
        hidden = Internal(f"internal error, incident {incident}: the server's log has the rest", incident=incident)
        await context.abort_with_status(to_grpc_status(hidden))
