"""One generation: its request out of keywords, and its answer as it streams in.

Owns the spelling of prompts, sampling and stop conditions, and the life of the stream. Judges only
what cannot be written down as a request; the worker judges values.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, TypedDict

import grpc.aio

from lorry.connection import received
from lorry.errors import InvalidInput
from lorry.selection import Adapters, selection
from lorry.v1 import inference_pb2 as pb

# A pair of role and content, or a mapping with these two keys.
Message: TypeAlias = "tuple[str, str] | Mapping[str, str]"
_Call: TypeAlias = "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]"

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
# Option and its field of StopConditions.
_STOP = {
    "max_new_tokens": "max_new_tokens",
    "stop": "strings",
    "stop_token_ids": "token_ids",
    "ignore_eos": "ignore_eos",
}


class GenerateOptions(TypedDict, total=False):
    """What besides a raw prompt a generation takes; None and absence leave it to the worker.

    Exactly one of a raw prompt, `messages` (through the chat template) and `tokens` is given.
    `adapters`: see lorry.selection; empty is the base alone. Not beside `route`; with neither, the
    route `default` decides. The rest is Sampling and StopConditions of inference.proto: all of
    sampling absent is greedy. `logprobs`: with every token, those of so many likeliest (0 to 20).
    """

    messages: Sequence[Message] | None
    tokens: Sequence[int] | None
    adapters: Adapters | None
    route: str | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    max_new_tokens: int | None
    stop: Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    logprobs: int | None


def generate_request(prompt: str | None, options: GenerateOptions) -> pb.GenerateRequest:
    """The request. Raises InvalidInput on no prompt or two, on adapters beside a route, on a number out of range."""
    unknown = options.keys() - GenerateOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"generate: no such option as {', '.join(sorted(unknown))}")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        return pb.GenerateRequest(
            sampling=pb.Sampling(**{name: given[name] for name in _SAMPLING if name in given}),
            stop=pb.StopConditions(**{field: given[name] for name, field in _STOP.items() if name in given}),
            logprobs=given.get("logprobs"),
            **_prompt(prompt, given),
            **_target(given),
        )
    except ValueError as error:
        raise InvalidInput(f"generate: {error}") from error


def _prompt(prompt: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    prompts: dict[str, Any] = {}
    if prompt is not None:
        prompts["text"] = prompt
    if "messages" in given:
        prompts["chat"] = pb.Chat(messages=[_message(message) for message in given["messages"]])
    if "tokens" in given:
        prompts["tokens"] = pb.TokenIds(ids=given["tokens"])
    if len(prompts) != 1:
        raise InvalidInput(f"expected one of a prompt, messages and tokens, got {' and '.join(prompts) or 'none'}")
    return prompts


def _target(given: Mapping[str, Any]) -> dict[str, Any]:
    if "adapters" in given and "route" in given:
        raise InvalidInput("expected adapters or a route, got both")
    if "adapters" in given:
        return {"selection": selection(given["adapters"])}
    return {"route": given["route"]} if "route" in given else {}


def _message(message: Message) -> pb.ChatMessage:
    if isinstance(message, Mapping):
        return pb.ChatMessage(role=message["role"], content=message["content"])
    return pb.ChatMessage(role=message[0], content=message[1])


class Generation:
    """An answer on its way: iterate over the messages once, or await `text()`.

    Cancelling the task that iterates cancels the generation on the worker. Whoever leaves the loop
    early calls `aclose`, or puts the loop into `async with`.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._messages = received(call)

    def __aiter__(self) -> AsyncIterator[pb.GenerateResponse]:
        return self._messages

    async def text(self) -> str:
        """The whole answer. Raises what the worker raised."""
        return "".join([message.delta.text async for message in self])

    async def aclose(self) -> None:
        """Cancel what is still to come."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
