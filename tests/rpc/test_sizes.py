"""A message that repeats something more often than there is use for is refused by its count alone."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from compute_worker.rpc import requests, scoring
from compute_worker.rpc.sizes import MAX_MESSAGES, MAX_PROMPT_TOKENS, check_sizes
from lorry.errors import InvalidInput, InvalidSelection, LorryError
from lorry.v1 import inference_pb2, residency_pb2, types_pb2

_ADAPTERS = [types_pb2.WeightedAdapter()] * 17
_SELECTION = types_pb2.Selection(adapters=_ADAPTERS)
_CHAT = inference_pb2.Chat(messages=[inference_pb2.ChatMessage()] * (MAX_MESSAGES + 1))
CASES: list[tuple[Message, type[LorryError], str]] = [
    (inference_pb2.GenerateRequest(chat=_CHAT), InvalidInput, "at most 16384 messages, got 16385"),
    (
        inference_pb2.GenerateRequest(tokens=inference_pb2.TokenIds(ids=[0] * (MAX_PROMPT_TOKENS + 1))),
        InvalidInput,
        "at most 4194304 prompt tokens",
    ),
    (inference_pb2.GenerateRequest(text="a", selection=_SELECTION), InvalidSelection, "at most 16 adapters, got 17"),
    (
        inference_pb2.ScoreRequest(items=[inference_pb2.ScoreItem()] * 1025),
        InvalidInput,
        "at most 1024 items, got 1025",
    ),
    (inference_pb2.ScoreRequest(items=[inference_pb2.ScoreItem(chat=_CHAT)]), InvalidInput, "messages"),
    (
        inference_pb2.SwitchRequest(targets=[inference_pb2.RouteTarget()] * 17),
        InvalidSelection,
        "at most 16 targets, got 17",
    ),
    (
        inference_pb2.SwitchRequest(targets=[inference_pb2.RouteTarget(selection=_SELECTION)]),
        InvalidSelection,
        "at most 16 adapters, got 17",
    ),
    (residency_pb2.CombineRequest(sources=_ADAPTERS), InvalidSelection, "at most 16 adapters, got 17"),
]


@pytest.mark.parametrize(("request_", "error", "says"), CASES)
def test_more_than_there_is_use_for_is_refused(request_: Message, error: type[LorryError], says: str) -> None:
    with pytest.raises(error, match=says):
        check_sizes(request_)


def test_every_reader_counts_before_it_reads() -> None:
    for read in (
        lambda: requests.generate_call(CASES[0][0], None),  # type: ignore[arg-type] # that one's
        lambda: scoring.score_call(CASES[3][0], None),  # type: ignore[arg-type] # that one's
        lambda: requests.targets(CASES[5][0]),  # type: ignore[arg-type] # that one's
        lambda: requests.combine_call(CASES[7][0]),  # type: ignore[arg-type] # that one's
    ):
        with pytest.raises((InvalidInput, InvalidSelection), match="expected at most"):
            read()


def test_what_there_is_use_for_passes() -> None:
    check_sizes(inference_pb2.GenerateRequest(text="a", selection=types_pb2.Selection(adapters=_ADAPTERS[:16])))
    check_sizes(inference_pb2.ScoreRequest(items=[inference_pb2.ScoreItem()] * 1024))
    check_sizes(residency_pb2.LoadRequest(adapter="a"))
