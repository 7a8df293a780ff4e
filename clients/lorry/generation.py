"""One generation: its request out of keywords, and its answer as it streams in.

Owns the spelling of prompts, sampling and stop conditions, and the life of the stream. Judges only
what cannot be written down as a request; the worker judges values.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, TypedDict

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from lorry.connection import received
from lorry.errors import InvalidInput
from lorry.selection import Adapters, selection
from lorry.v1 import inference_pb2 as pb

# A pair of role and content, or a mapping with these two keys.
Message: TypeAlias = "tuple[str, str] | Mapping[str, str]"
_Call: TypeAlias = "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]"

# As stream_interval: the answer in one piece. The largest int32; no answer has as many tokens.
WHOLE = 2**31 - 1

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
    route `default` decides. `scale`: a factor on all weights. `affinity`: what decides about a route's
    branch, a user's id for example. `session`: the caller's id of a conversation that keeps its adapters;
    with `follow` it takes what its target means now. Both, `adapters` and `route`, may be left out then.
    The rest is Sampling and StopConditions of inference.proto: all of
    sampling absent is greedy. `logprobs`: with every token, those of so many likeliest (0 to 20).
    At most one of `json_schema` (JSON, or what becomes it), `regex` and `grammar` (Lark): the answer's form.
    `tenant`, `priority`, `begin_within` (seconds): whose turn it is, and how long that may take.
    `stream_interval`: tokens that may wait for each other to come in one message; WHOLE where nobody reads along.
    """

    messages: Sequence[Message] | None
    tokens: Sequence[int] | None
    adapters: Adapters | None
    route: str | None
    scale: float | None
    affinity: str | None
    session: str | None
    follow: bool | None
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
    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    grammar: str | None
    tenant: str | None
    priority: int | None
    begin_within: float | None
    stream_interval: int | None


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
            tenant=given.get("tenant", ""),
            priority=given.get("priority", 0),
            begin_within=_duration(given["begin_within"]) if "begin_within" in given else None,
            scale=given.get("scale"),
            affinity=given.get("affinity", ""),
            stream_interval=given.get("stream_interval", 0),
            session=_session(given),
            **_constraint(given),
            **prompt_fields(prompt, given),
            **target_fields(given),
        )
    except ValueError as error:
        raise InvalidInput(f"generate: {error}") from error


def _duration(seconds: float) -> Duration:
    whole, part = divmod(seconds, 1)
    return Duration(seconds=int(whole), nanos=int(part * 1e9))


def _constraint(given: Mapping[str, Any]) -> dict[str, Any]:
    forms = {name: given[name] for name in ("json_schema", "regex", "grammar") if name in given}
    if len(forms) > 1:
        raise InvalidInput(f"expected at most one of json_schema, regex and grammar, got {' and '.join(forms)}")
    return {name: form if isinstance(form, str) else json.dumps(form) for name, form in forms.items()}


def prompt_fields(prompt: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt as fields of a request or an item. Raises InvalidInput on none or two."""
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


def target_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Where the adapters come from, as fields of a request or an item. Raises InvalidInput on adapters and a route."""
    if "adapters" in given and "route" in given:
        raise InvalidInput("expected adapters or a route, got both")
    if "adapters" in given:
        return {"selection": selection(given["adapters"])}
    return {"route": given["route"]} if "route" in given else {}


def _session(given: Mapping[str, Any]) -> pb.Session | None:
    if "session" in given:
        return pb.Session(id=given["session"], follow=given.get("follow", False))
    if given.get("follow"):
        raise InvalidInput("expected a session beside follow, got none")
    return None


def _message(message: Message) -> pb.ChatMessage:
    try:
        role, content = (message["role"], message["content"]) if isinstance(message, Mapping) else message
        return pb.ChatMessage(role=role, content=content)
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidInput(f"expected a message to have a role and a content, got {repr(message)[:80]}") from error


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
