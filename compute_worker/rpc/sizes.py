"""How much of a kind one message may say: judged by counting, before anything is made of it.

Owns the walk through the messages that repeat something. A message may have megabytes, of which each two bytes may
be one more empty value; whoever looks at all of them does so on the loop that serves everybody. Does not know what
the values mean.
"""

from __future__ import annotations

from collections.abc import Sized

from compute_worker.runtime.branches import MAX_BRANCHES
from compute_worker.runtime.scorecheck import MAX_ITEMS
from compute_worker.runtime.selection import MAX_ADAPTERS
from lorry.errors import InvalidInput, InvalidSelection, LorryError
from lorry.v1 import inference_pb2, residency_pb2

# Several times as many as the largest contexts of today hold.
MAX_MESSAGES = 1 << 14
MAX_PROMPT_TOKENS = 1 << 22


def check_sizes(request: object) -> None:
    """Raise InvalidInput, InvalidSelection where a request says more of something than there is use for."""
    match request:
        case inference_pb2.GenerateRequest():
            _check_prompt(request)
        case inference_pb2.ScoreRequest():
            _few("items", request.items, MAX_ITEMS)
            for item in request.items:
                _check_prompt(item)
                _few("continuation tokens", item.continuation_tokens.ids, MAX_PROMPT_TOKENS)
        case inference_pb2.SwitchRequest():
            _few("targets", request.targets, MAX_BRANCHES, InvalidSelection)
            for target in request.targets:
                _few_adapters(target.selection.adapters)
        case residency_pb2.CombineRequest():
            _few_adapters(request.sources)


def _check_prompt(asked: inference_pb2.GenerateRequest | inference_pb2.ScoreItem) -> None:
    _few("messages", asked.chat.messages, MAX_MESSAGES)
    _few("prompt tokens", asked.tokens.ids, MAX_PROMPT_TOKENS)
    _few_adapters(asked.selection.adapters)


def _few_adapters(adapters: Sized) -> None:
    _few("adapters", adapters, MAX_ADAPTERS, InvalidSelection)


def _few(what: str, values: Sized, most: int, error: type[LorryError] = InvalidInput) -> None:
    if len(values) > most:
        raise error(f"expected at most {most} {what}, got {len(values)}")
