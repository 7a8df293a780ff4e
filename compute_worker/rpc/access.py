"""Every call of the worker on behalf of whoever makes it: known, allowed, and passed on by name.

Owns the interceptor: credentials to rights, the rule of the call, and both around the handler, so that
the registry is asked as the caller and lists show what the caller may read. Does not know the rules,
nor how rights are found.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio

from compute_worker.rpc.requests import Context
from compute_worker.rpc.rules import OPEN, RULES, WATCHES, Belongings, Rule
from compute_worker.rpc.sizes import check_sizes
from compute_worker.runtime.callers import Callers
from compute_worker.runtime.rights import Rights, acting
from lorry.errors import Internal, Unavailable
from lorry.rpc import requestid
from lorry.rpc.credentials import caller_of, on_behalf_of

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Access(grpc.aio.ServerInterceptor):
    """Stands behind the interceptor that turns errors into statuses. All rpcs take one message."""

    def __init__(self, callers: Callers, belongings: Belongings) -> None:
        self._callers = callers
        self._belongings = belongings

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The handler of the call, guarded; None where there is no such method."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method.startswith(OPEN):
            return handler
        if method not in RULES:
            raise Internal(f"{method} has no rule")
        kind = "unary_stream" if handler.response_streaming else "unary_unary"
        guarded: _Handler = getattr(grpc, f"{kind}_rpc_method_handler")(
            self._guard(getattr(handler, kind), RULES[method], watch=method in WATCHES),
            handler.request_deserializer,
            handler.response_serializer,
        )
        return guarded

    def _guard(self, behaviour: Callable[..., Any], rule: Rule, *, watch: bool) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(behaviour):

            async def generate(request: object, context: Context) -> AsyncIterator[object]:
                caller = caller_of(context)
                rights = await self._callers.rights(caller)
                with self._admitted(rule, request, caller, rights):
                    async with aclosing(behaviour(request, context)) as responses:
                        async for response in responses:
                            if watch:
                                await self._unchanged(caller, rights)
                            yield response

            return generate

        async def answer(request: object, context: Context) -> object:
            caller = caller_of(context)
            rights = await self._callers.rights(caller)
            with self._admitted(rule, request, caller, rights):
                return await behaviour(request, context)

        return answer

    async def _unchanged(self, caller: str, rights: Rights) -> None:
        """Raise what `Callers.rights` raises, Unavailable where they are others: a watch may last for months."""
        if await self._callers.rights(caller) != rights:
            raise Unavailable("what the caller may do has changed: watch again")

    @contextmanager
    def _admitted(self, rule: Rule, request: object, caller: str, rights: Rights) -> Iterator[None]:
        # Nothing is awaited between the rule and the handler's first step, which reads the route or the
        # combination that the rule has judged: no switch can come between.
        requestid.known_as(rights.holder)
        check_sizes(request)
        with acting(rights), on_behalf_of(caller):
            rule(request, rights, self._belongings)
            yield
