"""Who calls: what a caller shows of itself, and how the other side reads it.

Owns the spelling on the wire: a token or a client certificate, and `lorry-on-behalf-of` for a worker
that acts for its own callers. Does not know who is known, nor who may do what.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict

import grpc.aio

from lorry.errors import InvalidInput, Unauthenticated
from lorry.rpc import requestid

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

AUTHORIZATION: Final = "authorization"
ON_BEHALF_OF: Final = "lorry-on-behalf-of"
_CERTIFICATE = "Certificate "
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
# What a header can carry, without the spaces that separate its parts.
_TOKEN = re.compile(r"[!-~]{1,500}")
_NAME = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?")

_behalf: ContextVar[str] = ContextVar("on_behalf_of", default="")


class Credentials(TypedDict, total=False):
    """What a client shows and trusts. token: the secret of a principal. root_certificates: PEM file of
    those who sign the server's certificate; TLS is used where it is given. certificate: PEM files of
    the client's own certificate and its key, for servers that ask for one.
    """

    token: str
    root_certificates: Path
    certificate: tuple[Path, Path]


@contextmanager
def on_behalf_of(caller: str) -> Iterator[None]:
    """Every call begun inside of the block names this caller, as `caller_of` spells it; '' names nobody."""
    before = _behalf.set(caller)
    try:
        yield
    finally:
        _behalf.reset(before)


def caller_of(context: _Context) -> str:
    """Who calls: `Bearer TOKEN`, `Certificate NAME` for a verified client certificate, or '' for nobody.

    A token goes before a certificate. Raises Unauthenticated where a header cannot be read.
    """
    token = token_of(context)
    if token:
        return f"Bearer {token}"
    name = certificate_of(context)
    return f"{_CERTIFICATE}{name}" if name else ""


def token_of(context: _Context) -> str:
    """The token of `authorization: Bearer ...`; '' where there is none. Raises Unauthenticated."""
    return _bearer(header(context, AUTHORIZATION), AUTHORIZATION)


def certificate_of(context: _Context) -> str:
    """Subject common name of the client certificate that TLS has verified; '' where there is none or not one."""
    names = list(context.auth_context().get("x509_common_name", ()))
    name = names[0].decode("utf-8", "replace") if len(names) == 1 else ""
    return name if is_certificate_name(name) else ""


def behalf_of(context: _Context) -> tuple[str, str]:
    """Token and certificate name of the caller that a worker acts for; one or both are ''. Raises Unauthenticated."""
    text = header(context, ON_BEHALF_OF)
    name = text.removeprefix(_CERTIFICATE)
    if name != text and is_certificate_name(name):
        return "", name
    return _bearer(text, ON_BEHALF_OF), ""


def is_certificate_name(text: str) -> bool:
    """Whether a common name can travel in a header: 1 to 200 printable ASCII characters, no space at an end."""
    return _NAME.fullmatch(text) is not None


def header(context: _Context, key: str) -> str:
    """One entry of the call's metadata; '' where there is none. Raises Unauthenticated where there are several."""
    found = [value for name, value in context.invocation_metadata() or () if name == key]
    if len(found) > 1:
        raise Unauthenticated(f"{key}: expected it once, got it {len(found)} times")
    text = found[0] if found else ""
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def _bearer(text: str, key: str) -> str:
    scheme, _, token = text.partition(" ")
    if text and (scheme.lower() != "bearer" or _TOKEN.fullmatch(token) is None):
        raise Unauthenticated(f"{key}: expected `Bearer TOKEN`, got something else")
    return token


def identified(channel: grpc.aio.Channel, token: str) -> grpc.aio.Channel:
    """The same channel; each of its calls shows the token, whom it is made on behalf of, and the id of
    the request that it helps to answer.

    Raises InvalidInput where the token cannot travel in a header.
    """
    if token and _TOKEN.fullmatch(token) is None:
        raise InvalidInput("token: expected up to 500 printable ASCII characters without spaces, got something else")
    own = ((AUTHORIZATION, f"Bearer {token}"),) if token else ()
    # Not by interceptors: those put a task and a queue in front of every call and every chunk.
    for kind in _KINDS:
        setattr(channel, kind, _naming(getattr(channel, kind), own))
    return channel


def _naming(make: Callable[..., Any], own: Iterable[tuple[str, str]]) -> Callable[..., Any]:
    def made(*args: object, **kwargs: object) -> Callable[..., Any]:
        method = make(*args, **kwargs)

        def call(*args: object, metadata: Iterable[tuple[str, str]] | None = None, **kwargs: object) -> object:
            behalf = _behalf.get()
            acted = ((ON_BEHALF_OF, behalf),) if behalf else ()
            return method(*args, metadata=(*(metadata or ()), *own, *acted, *requestid.metadata()), **kwargs)

        return call

    return made
