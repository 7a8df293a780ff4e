from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from lorry.errors import AdapterNotFound, Internal, LorryError, PermissionDenied, Unavailable
from lorry.registry import RegistryClient
from lorry.rpc import requestid
from lorry.rpc.calls import translated
from lorry.rpc.channel import open_channel
from lorry.rpc.logs import AccessLog
from lorry.rpc.requestid import REQUEST_ID, Call
from tests.support.raiser import KINDS, Act, call, raiser
from tests.support.registry import running_registry

FRESH = re.compile(r"[0-9a-f]{16}")


class Told:
    """Remembers what watchers are told."""

    def __init__(self) -> None:
        self.began_: list[Call] = []
        self.ended_: list[Call] = []
        self.over = asyncio.Event()

    def began(self, call: Call) -> None:
        self.began_.append(call)

    def ended(self, call: Call) -> None:
        self.ended_.append(call)
        self.over.set()


def raising(error: BaseException) -> Act:
    async def act() -> None:
        raise error

    return act


async def nothing() -> None:
    pass


async def error_of(act: Act, kind: str = "unary_unary") -> LorryError:
    async with raiser(act) as channel:
        with pytest.raises(LorryError) as caught, translated():
            await call(channel, kind)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_names_the_request_that_it_ended(kind: str) -> None:
    seen: list[str] = []

    async def act() -> None:
        seen.extend(value for _, value in requestid.metadata())
        raise AdapterNotFound("no adapter")

    error = await error_of(act, kind)
    assert [error.request_id] == seen
    assert FRESH.fullmatch(error.request_id)


async def test_a_defect_names_the_request_beside_the_incident() -> None:
    error = await error_of(raising(KeyError()))
    assert isinstance(error, Internal)
    assert error.metadata["request_id"] == error.request_id


async def test_where_no_server_answers_there_is_no_request() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable) as caught, translated():
            await call(channel, "unary_unary")
    assert caught.value.request_id == ""


@pytest.mark.parametrize("given", ["a", "req-1/2:3.4_5", "x" * 100])
async def test_the_callers_own_id_is_taken_and_sent_back(given: str) -> None:
    assert await answered_as(((REQUEST_ID, given),)) == {given}


@pytest.mark.parametrize("given", [["x" * 101], ["two words"], ["%0a"], [""], ["one", "two"]])
async def test_an_id_that_is_not_fit_to_be_printed_is_replaced(given: list[str]) -> None:
    made = await answered_as(tuple((REQUEST_ID, each) for each in given))
    assert len(made) == 2
    assert all(map(FRESH.fullmatch, made))


async def answered_as(metadata: tuple[tuple[str, str], ...]) -> set[str]:
    """The ids that come behind a lone answer and with the headers of a stream."""
    async with raiser(nothing) as channel:
        lone = channel.unary_unary("/test.Raiser/unary_unary")(b"", metadata=metadata, timeout=10)
        await lone
        stream = channel.unary_stream("/test.Raiser/unary_stream")(b"", metadata=metadata, timeout=10)
        behind, before = await lone.trailing_metadata(), await stream.initial_metadata()
        stream.cancel()
    (one,), (other,) = ([str(v) for k, v in found or () if k == REQUEST_ID] for found in (behind, before))
    return {one, other}


async def test_calls_that_help_to_answer_pass_the_id_on(tmp_path: Path) -> None:
    passed: list[str] = []
    async with running_registry(tmp_path) as target, RegistryClient(target) as client:

        async def act() -> None:
            passed.extend(value for _, value in requestid.metadata())
            await client.resolve("nobody")

        error = await error_of(act)
    # The raiser's own call and the registry's have one id: the registry's error carries what it was called.
    assert passed == [error.request_id]
    assert isinstance(error, AdapterNotFound)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("act", "code"),
    [
        (nothing, "OK"),
        (raising(AdapterNotFound("")), "NOT_FOUND"),
        (raising(KeyError()), "INTERNAL"),
        (lambda: asyncio.sleep(60), "DEADLINE_EXCEEDED or CANCELLED"),  # whose clock was first
    ],
    ids=["ok", "error", "defect", "late"],
)
async def test_watchers_hear_how_each_call_ended(kind: str, act: Act, code: str) -> None:
    told = Told()
    async with raiser(act, told) as channel:
        with suppress(grpc.RpcError):
            await call(channel, kind, 0.3 if "DEADLINE" in code else 10)
        await asyncio.wait_for(told.over.wait(), 10)
    assert told.began_ == told.ended_
    (ended,) = told.ended_
    assert ended.method == f"test.Raiser/{kind}"
    assert ended.code in code.split(" or ")
    assert ended.seconds > 0


async def test_refusals_are_warned_of_also_where_calls_get_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    for act in (nothing, raising(PermissionDenied("no"))):
        told = Told()
        # Watchers hear of an end in their order, and the caller maybe before them.
        async with raiser(act, AccessLog(every=False), told) as channel:
            with caplog.at_level(logging.INFO, "lorry.access"), suppress(grpc.RpcError):
                await call(channel, "unary_unary")
            await asyncio.wait_for(told.over.wait(), 10)
    (line,) = [record for record in caplog.records if record.name == "lorry.access"]
    assert line.levelno == logging.WARNING
    assert line.getMessage().startswith("refused: PERMISSION_DENIED in ")
