"""The interceptor that every call of the registry passes behind the one for errors.

Owns that no handler begins before its caller is known and may do what the call asks, and that everything
the handler does is done in that caller's name. Does not know what a call needs (`rules`) nor who is
known (`service.access`).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from adapter_registry.domain.acting import Actor, Rights, act_as, actor
from adapter_registry.rpc.calls import Context
from adapter_registry.rpc.rules import OPEN_SERVICES, RULES, Rule, unruled
from adapter_registry.service.access import Access, Shown
from lorry.errors import PermissionDenied
from lorry.rpc import requestid
from lorry.rpc.credentials import behalf_of, certificate_of, token_of

_NO_RIGHTS = Rights()


async def _nobody() -> None:
    """Outside of a call nobody is judged."""


_again: ContextVar[Callable[[], Awaitable[None]]] = ContextVar("again", default=_nobody)


async def judge_again() -> None:
    """Find out anew who makes this call and whether it may, for a call that goes on for long.

    Raises Unauthenticated, PermissionDenied, StorageUnavailable.
    """
    await _again.get()()


class AccessGuard(grpc.aio.ServerInterceptor):
    """Raises RuntimeError where an rpc of the registry has no rule."""

    def __init__(self, access: Access) -> None:
        missing = unruled(RULES)
        if missing:
            raise RuntimeError(f"no rule says who may call {', '.join(missing)}")
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of the call, guarded; None where there is no such method."""
        handler = await continuation(handler_call_details)
        _, service, name = handler_call_details.method.split("/")
        if handler is None or service in OPEN_SERVICES:
            return handler
        gate = _Gate(self._access, RULES.get(handler_call_details.method), name)
        return _guarded(handler, gate)


@dataclass(frozen=True, slots=True)
class _Gate:
    """What calls of one method pass."""

    access: Access
    rule: Rule | None
    method: str

    async def admit(self, context: Context) -> None:
        """Find out who calls; from here on it acts. Raises Unauthenticated, PermissionDenied."""
        call = requestid.current()
        request_id = call.request_id if call else ""
        # Nobody acts until somebody is known: not the registry itself, which may do everything.
        act_as(Actor("", _NO_RIGHTS, action=self.method, request_id=request_id))
        token, certificate, behalf = token_of(context), certificate_of(context), behalf_of(context)
        shown = Shown(token, certificate, *behalf)
        act_as(await self.access.admit(shown, action=self.method, request_id=request_id))
        requestid.known_as(actor().principal, actor().via)

    def check(self, request: object) -> None:
        """Raises PermissionDenied where the caller may not ask that."""
        if self.rule is None:
            raise PermissionDenied(f"expected a call that has a rule, got {self.method}")
        for permission, namespace in self.rule(request):
            actor().rights.require(permission, namespace)


def _guarded(handler: grpc.RpcMethodHandler[Any, Any], gate: _Gate) -> grpc.RpcMethodHandler[Any, Any]:
    kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    kind = next(kind for kind in kinds if getattr(handler, kind) is not None)
    enter = _entered_stream if handler.request_streaming else _entered
    guarded: grpc.RpcMethodHandler[Any, Any] = getattr(grpc, f"{kind}_rpc_method_handler")(
        _behind(gate, enter, getattr(handler, kind)), handler.request_deserializer, handler.response_serializer
    )
    return guarded


def _behind(gate: _Gate, enter: Callable[..., Awaitable[Any]], behaviour: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(behaviour):

        async def generate(request: Any, context: Context) -> AsyncIterator[object]:
            asked = await enter(gate, request, context)
            async with aclosing(behaviour(asked, context)) as responses:
                async for response in responses:
                    yield response

        return generate

    async def answer(request: Any, context: Context) -> object:
        return await behaviour(await enter(gate, request, context), context)

    return answer


async def _entered(gate: _Gate, request: object, context: Context) -> object:
    async def judge() -> None:
        await gate.admit(context)
        gate.check(request)

    await judge()
    _again.set(judge)
    return request


async def _entered_stream(gate: _Gate, messages: AsyncIterator[object], context: Context) -> AsyncIterator[object]:
    """The messages, once the first of them says what the call is about."""
    await gate.admit(context)
    first = [message async for message in _one(messages)]

    async def judge() -> None:
        await gate.admit(context)
        for message in first:
            gate.check(message)

    for message in first:
        gate.check(message)
    _again.set(judge)
    return _chained(first, messages)


async def _one(messages: AsyncIterator[object]) -> AsyncIterator[object]:
    async for message in messages:
        yield message
        return


async def _chained(first: list[object], rest: AsyncIterator[object]) -> AsyncIterator[object]:
    for message in first:
        yield message
    async for message in rest:
        yield message
