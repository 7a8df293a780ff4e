from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from lorry import RegistryClient, errors
from lorry.rpc.calls import translated
from lorry.rpc.channel import open_channel
from lorry.rpc.status import from_rpc_error, to_status
from tests.support.raiser import KINDS, Act, call, raiser


def _tree(root: type[errors.LorryError]) -> list[type[errors.LorryError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


CLASSES = [cls for cls in _tree(errors.LorryError) if cls.__module__ == "lorry.errors"]


def raising(error: BaseException) -> Act:
    async def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
async def test_every_error_arrives_as_the_class_that_was_raised(cls: type[errors.LorryError]) -> None:
    sent = cls("expected ü, got 100 %\nof it", digest="sha256:ab", count="3")
    sent.retry_after = 1.25
    async with raiser(raising(sent)) as channel:
        with pytest.raises(errors.LorryError) as caught, translated():
            await call(channel, "unary_unary")
    assert type(caught.value) is cls
    assert caught.value.message == sent.message
    assert caught.value.metadata == sent.metadata
    assert caught.value.retry_after == (1.25 if cls.retryable else cls.retry_after)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_a_code_a_reason_and_a_retry_delay_exactly_where_it_is_retryable(
    cls: type[errors.LorryError],
) -> None:
    status = to_status(cls("text"))
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("lorry", cls.reason)
    assert any(detail.Unpack(retry) for detail in status.details) == cls.retryable
    assert status.code == grpc.StatusCode[cls.code].value[0]


def test_no_two_classes_share_a_reason() -> None:
    assert len({cls.reason for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lorry_error_is_a_rich_status_in_every_kind_of_call(kind: str) -> None:
    async with raiser(raising(errors.AdapterNotFound("no adapter 'x'", adapter="x"))) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await call(channel, kind)
    info = ErrorInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(info)
    assert (info.reason, dict(info.metadata)) == ("ADAPTER_NOT_FOUND", {"adapter": "x"})


@pytest.mark.parametrize("kind", KINDS)
async def test_the_text_of_any_other_exception_stays_in_the_log(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with raiser(raising(KeyError("password=hunter2"))) as channel:
        with caplog.at_level(logging.ERROR), pytest.raises(errors.Internal) as caught, translated():
            await call(channel, kind)
    assert "hunter2" not in caught.value.message
    assert "hunter2" in caplog.text
    assert caught.value.metadata["incident"] in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_work_that_was_cancelled_behind_a_call_is_answered(kind: str) -> None:
    async with raiser(raising(asyncio.CancelledError())) as channel:
        with pytest.raises(errors.Cancelled), translated():
            await call(channel, kind)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_is_deadline_exceeded_and_ends_the_work(kind: str) -> None:
    ended = asyncio.Event()

    async def act() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with raiser(act) as channel:
        with pytest.raises(errors.DeadlineExceeded), translated():
            await call(channel, kind, deadline=0.2)
        await asyncio.wait_for(ended.wait(), 10)


async def test_a_refused_connection_is_unavailable() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(errors.Unavailable), translated():
            await call(channel, "unary_unary")


async def test_a_method_that_does_not_exist_names_its_code() -> None:
    async with raiser(raising(errors.Internal("unused"))) as channel:
        with pytest.raises(errors.LorryError) as caught, translated():
            await channel.unary_unary("/test.Raiser/nothing")(b"", timeout=10)
    assert type(caught.value) is errors.LorryError
    assert "UNIMPLEMENTED" in caught.value.message


async def test_an_unknown_reason_becomes_the_class_of_its_code() -> None:
    error = errors.QueueFull("full")
    vars(error)["reason"] = "OUT_OF_UNICORNS"  # as a later release may send
    async with raiser(raising(error)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await call(channel, "unary_unary")
    assert type(from_rpc_error(caught.value)) is errors.Exhausted


@pytest.mark.parametrize("text", ["x" * 100_000, "ü€\n" * 30_000, "\ud800", "%" * 50_000])
async def test_a_message_of_any_length_and_content_arrives_cut(text: str) -> None:
    lengthy = {f"key{index}": text for index in range(3)}
    async with raiser(raising(errors.IncompatibleAdapter(text, **lengthy))) as channel:
        with pytest.raises(errors.IncompatibleAdapter) as caught, translated():
            await call(channel, "unary_unary")
    assert caught.value.message[:6] == text.encode("utf-8", "backslashreplace").decode()[:6]
    assert len(caught.value.message) < 3_000


class Garbled(grpc.GenericRpcHandler):
    """Refuses every call, with these details."""

    def __init__(self, details: bytes) -> None:
        self._details = details

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def refuse(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            context.set_trailing_metadata((("grpc-status-details-bin", self._details),))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(refuse)


def a_detail_cut_short() -> bytes:
    status = to_status(errors.PermissionDenied("no"))
    status.details[0].value = b"\xff\xff\xff"
    return status.SerializeToString()


@pytest.mark.parametrize("details", [b"\xff\xff\xff", a_detail_cut_short()], ids=["all", "one"])
async def test_details_that_do_not_parse_leave_the_code_that_came_with_them(details: bytes) -> None:
    server = grpc.aio.server(handlers=(Garbled(details),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    address = f"127.0.0.1:{port}"
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(errors.PermissionDenied, match="no"), translated():
                await channel.unary_unary("/any/Thing")(b"")
        async with RegistryClient(address, timeout=10) as client:
            with pytest.raises(errors.PermissionDenied, match="no"):
                await client.listen()
    finally:
        await server.stop(0)
