"""What a score call takes: items out of mappings, in calls that the worker accepts.

Owns the spelling of an item and the size of a call. Judges only what cannot be written down as a
request; the worker judges values.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import TypeAlias, TypedDict

import grpc.aio

from lorry.connection import received
from lorry.errors import InvalidInput
from lorry.generation import Message, prompt_fields, target_fields
from lorry.selection import Adapters
from lorry.v1 import inference_pb2 as pb

_Call: TypeAlias = "grpc.aio.UnaryStreamCall[pb.ScoreRequest, pb.ScoreResponse]"

# Half of what the worker takes: a call's items are resolved and tokenised before its first is scored.
CALL_ITEMS = 512


class Item(TypedDict, total=False):
    """A prompt, what may follow, and under which adapters.

    Exactly one of `prompt` (raw text; may be empty), `messages` and `tokens`; exactly one of
    `continuation` and `continuation_tokens`; at most one of `adapters` (see lorry.selection; empty is the
    base alone) and `route`: with neither, the route `default` decides.
    """

    prompt: str
    messages: Sequence[Message]
    tokens: Sequence[int]
    continuation: str
    continuation_tokens: Sequence[int]
    adapters: Adapters
    route: str


def score_requests(items: Iterable[Item], *, tenant: str, priority: int) -> Iterator[tuple[int, pb.ScoreRequest]]:
    """(Index of its first item, request) for as many calls as it takes. Raises InvalidInput on an item that is none."""
    waiting = enumerate(items)
    while batch := list(islice(waiting, CALL_ITEMS)):
        scored = [score_item(item, index) for index, item in batch]
        yield batch[0][0], pb.ScoreRequest(items=scored, tenant=tenant, priority=priority)


async def scores(calls: Iterable[tuple[int, _Call]]) -> AsyncGenerator[pb.ScoreResponse, None]:
    """The answers of one call after the other, `index` counted through. Raises what the worker raised."""
    for first, call in calls:
        async with aclosing(received(call)) as answers:
            async for answer in answers:
                answer.index += first
                yield answer


def score_item(item: Item, index: int) -> pb.ScoreItem:
    """One item; `index` is told where it is wrong. Raises InvalidInput."""
    unknown = item.keys() - Item.__annotations__.keys()
    if unknown:
        raise InvalidInput(f"item {index}: no such field as {', '.join(sorted(unknown))}")
    if ("continuation" in item) == ("continuation_tokens" in item):
        raise InvalidInput(f"item {index}: expected exactly one of continuation and continuation_tokens")
    try:
        message = pb.ScoreItem(**prompt_fields(item.get("prompt"), item), **target_fields(item))
        if "continuation" in item:
            message.continuation_text = item["continuation"]
        else:
            message.continuation_tokens.ids.extend(item["continuation_tokens"])
            message.continuation_tokens.SetInParent()
    except (InvalidInput, TypeError, ValueError) as error:
        raise InvalidInput(f"item {index}: {error}") from error
    return message
