"""What a score call may ask for, checked before anything is held for it.

Owns the ranges that inference.proto states for Score, and how an error says which item it is about.
Does not know adapters, nor what is free at the moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compute_worker.contract import EngineLimits
from compute_worker.runtime.api import ScoreCall
from compute_worker.runtime.validation import check_prompt, check_turn
from lorry.errors import InvalidInput, LorryError, PromptTooLong, RequestTooLarge

# 16 questions of lm-evaluation-harness's size with 4 answers each make 64 items; what is resolved and
# tokenised for a call is held until its end.
MAX_ITEMS = 1024


@contextmanager
def of_item(index: int) -> Iterator[None]:
    """An error of the block says that it is this item's."""
    try:
        yield
    except LorryError as error:
        # A new one: what a shared download raised belongs to everybody who waited for it.
        raise type(error)(f"item {index}: {error.message}", **error.metadata | {"item": str(index)}) from error


def check_scoring(call: ScoreCall, limits: EngineLimits) -> None:
    """Everything that can be said before it is known what serves the items. Raises InvalidInput, PromptTooLong."""
    if not 1 <= len(call.items) <= MAX_ITEMS:
        raise InvalidInput(f"expected 1 to {MAX_ITEMS} items, got {len(call.items)}")
    check_turn(call.tenant, call.priority)
    for index, item in enumerate(call.items):
        with of_item(index):
            check_prompt(item, limits)
            if (item.continuation is None) == (item.continuation_tokens is None):
                raise InvalidInput("expected exactly one of continuation_text and continuation_tokens")


def fit_item(prompt_tokens: int, continuation_tokens: int, limits: EngineLimits) -> None:
    """Raise InvalidInput for nothing to score, PromptTooLong or RequestTooLarge where it cannot be held."""
    total, capacity = prompt_tokens + continuation_tokens, limits.kv_blocks * limits.block_tokens
    if not prompt_tokens or not continuation_tokens:
        raise InvalidInput(f"expected tokens of both, got {prompt_tokens} of the prompt, {continuation_tokens} behind")
    if total > limits.max_context:
        raise PromptTooLong(f"the context holds {limits.max_context} tokens, prompt and continuation have {total}")
    if total > capacity:
        raise RequestTooLarge(f"the KV cache holds {capacity} tokens, prompt and continuation have {total}")
