"""LorryError on the wire and back.

Owns the rich status: ErrorInfo (domain `lorry`, the error's reason and metadata) and RetryInfo where
the same call may succeed later. Does not know who raises what, or when a caller tries again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from lorry.errors import LorryError
from lorry.rpc.requestid import REQUEST_ID

DOMAIN: Final = "lorry"

# A peer refuses trailers beyond 8 KiB (gRPC's default). The message travels twice: percent-encoded
# in grpc-message and base64-encoded in the details. 5,500 leaves room for metadata and for proxies.
_MESSAGE_BUDGET = 5_500
# Both names of a reference, a digest and separators are below 300 bytes; a list is cut.
_METADATA_VALUE_BYTES = 400
_ELLIPSIS = " ... (cut)"
# What gRPC percent-encodes: anything outside of printable ASCII, and the percent sign.
_ESCAPED = re.compile(rb"[^ -~]|%")


def to_status(error: LorryError) -> Status:
    """The google.rpc.Status of an error, small enough for any peer's limit on trailers."""
    info = ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={key: _cut(value, _METADATA_VALUE_BYTES) for key, value in error.metadata.items()},
    )
    details = [_packed(info)]
    if error.retryable:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    return Status(code=grpc.StatusCode[error.code].value[0], message=_fit(error.message), details=details)


def to_grpc_status(error: LorryError) -> grpc.Status:
    """What `context.abort_with_status` takes."""
    status: grpc.Status = rpc_status.to_status(to_status(error))
    return status


def from_rpc_error(error: grpc.RpcError) -> LorryError:
    """The error that the server raised, as the same class.

    A reason that this release does not know becomes the class of its code; so does a status that
    does not come from a Lorry server (a refused connection, a proxy's answer).
    """
    translated = _told(error) or _guessed(error)
    # Of a call that was answered; what a channel says on its own has none.
    headers = error.initial_metadata() or () if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else ()
    translated.request_id = next((str(value) for key, value in headers if key == REQUEST_ID), "")
    return translated


def _told(error: grpc.RpcError) -> LorryError | None:
    info, retry = ErrorInfo(), RetryInfo()
    try:
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            detail.Unpack(info)
            detail.Unpack(retry)
    except (ValueError, DecodeError):  # a proxy rewrote code or message, or cut the details: then it is its answer
        return None
    return _rebuilt(status, info, retry) if status and info.domain == DOMAIN else None


def _guessed(error: grpc.RpcError) -> LorryError:
    code: grpc.StatusCode = error.code()
    kind, details = _class_of_code(code.name), error.details() or "no message"
    # Where the class cannot tell the code, the message does.
    return kind(details if kind.code == code.name else f"{code.name}: {details}")


def _rebuilt(status: Status, info: ErrorInfo, retry: RetryInfo) -> LorryError:
    known = _classes_by_reason().get(info.reason)
    error = (known or _class_of_code(_code_name(status.code)))(status.message)
    error.metadata = dict(info.metadata)
    if retry.HasField("retry_delay"):
        error.retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return error


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _fit(message: str) -> str:
    # A byte that grpc-message escapes costs 3 there, others 1; each costs 4/3 in the details.
    data = message.encode("utf-8", "backslashreplace")
    escaped = len(_ESCAPED.findall(data))
    cost = len(data) * 7 // 3 + 2 * escaped
    if cost <= _MESSAGE_BUDGET:
        return data.decode()
    return _cut(message, len(data) * _MESSAGE_BUDGET // cost if escaped == 0 else _MESSAGE_BUDGET * 3 // 13)


def _cut(text: str, limit: int) -> str:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - len(_ELLIPSIS)].decode("utf-8", "ignore") + _ELLIPSIS


def _tree(root: type[LorryError]) -> Iterator[type[LorryError]]:
    level = [root]
    while level:  # level by level, so that the class nearest to the root comes first
        yield from level
        level = [child for parent in level for child in parent.__subclasses__()]


@cache
def _classes_by_reason() -> dict[str, type[LorryError]]:
    return {cls.reason: cls for cls in reversed([*_tree(LorryError)])}


@cache
def _classes_by_code() -> dict[str, type[LorryError]]:
    return {cls.code: cls for cls in reversed([*_tree(LorryError)])}


def _class_of_code(code: str) -> type[LorryError]:
    return _classes_by_code().get(code, LorryError)


def _code_name(number: int) -> str:
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), "UNKNOWN")
