"""What a generate call may ask for, checked before anything is held for it.

Owns the ranges that inference.proto states. Does not know adapters (selection does) nor what is
free at the moment (scheduler and cache do).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compute_worker.contract import EngineLimits, Sampling
from compute_worker.runtime.api import GenerateCall, ScoreItem, Stop
from compute_worker.wording import Form
from lorry.errors import InvalidInput, PromptTooLong, RequestTooLarge

DEFAULT_NEW_TOKENS = 256
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 64
# Ids that callers make: of users, and of conversations. A UUID has 36 characters.
MAX_AFFINITY_CHARACTERS = 256
MAX_SESSION_CHARACTERS = 128
MAX_LOGPROBS = 20
MAX_SEED = 2**64 - 1  # uint64 on the wire
MAX_PRIORITY = 10
MAX_TENANT_CHARACTERS = 64
MAX_BEGIN_SECONDS = 86_400.0
MAX_STREAM_INTERVAL = 2**31 - 1  # int32 on the wire; no answer has as many tokens
# As the wire promises; what a form of so many characters may cost in time and memory, llguidance bounds.
MAX_FORM_CHARACTERS = 1 << 16
# To say of one what is wrong takes as much time as its length squared: a second for so many.
MAX_GRAMMAR_CHARACTERS = 1 << 14
# No vocabulary has longer tokens (runs of spaces reach 128 characters), so a text that has more
# characters for each token of the context cannot fit and need not be tokenised to be refused.
MAX_CHARACTERS_PER_TOKEN = 256


def check_call(call: GenerateCall, limits: EngineLimits) -> None:
    """Everything that can be said before it is known what serves it. Raises InvalidInput, PromptTooLong."""
    check_prompt(call, limits)
    _check_sampling(call.sampling)
    _check_stop(call.stop)
    if call.seed is not None:
        _between("seed", call.seed, 0, MAX_SEED)
    _between("characters of the affinity", len(call.affinity), 0, MAX_AFFINITY_CHARACTERS)
    _between("characters of the session's id", len(call.session), 0, MAX_SESSION_CHARACTERS)
    if not math.isfinite(call.scale):
        raise InvalidInput(f"scale: expected a finite number, got {call.scale}")
    check_turn(call.tenant, call.priority)
    _between("stream_interval", call.stream_interval, 1, MAX_STREAM_INTERVAL)
    if call.begin_within is not None:
        _between("begin_within", call.begin_within, 0, MAX_BEGIN_SECONDS, above=True)
    if call.constraint is not None:
        most = MAX_GRAMMAR_CHARACTERS if call.constraint.form is Form.GRAMMAR else MAX_FORM_CHARACTERS
        _between(f"characters of {call.constraint.form}", len(call.constraint.text), 1, most)


def check_turn(tenant: str, priority: int) -> None:
    """Whose turn it is. Raises InvalidInput."""
    _between("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
    _between("characters of the tenant", len(tenant), 0, MAX_TENANT_CHARACTERS)


def fit(prompt_tokens: int, max_new_tokens: int, limits: EngineLimits) -> int:
    """The most new tokens that the context leaves, at most what was asked for (0: 256).

    Raises InvalidInput for an empty prompt, PromptTooLong where no token is left for the answer,
    RequestTooLarge where the KV cache could not hold the request even if it were empty.
    """
    if prompt_tokens == 0:
        raise InvalidInput("the prompt has no tokens")
    if prompt_tokens >= limits.max_context:
        raise PromptTooLong(
            f"the context holds {limits.max_context} tokens, answer included; the prompt has {prompt_tokens}"
        )
    new = min(max_new_tokens or DEFAULT_NEW_TOKENS, limits.max_context - prompt_tokens)
    capacity = limits.kv_blocks * limits.block_tokens
    if prompt_tokens + new > capacity:
        raise RequestTooLarge(
            f"the KV cache holds {capacity} tokens; the prompt has {prompt_tokens} and {new} more were asked for"
        )
    return new


def check_prompt(call: GenerateCall | ScoreItem, limits: EngineLimits) -> None:
    """Exactly one prompt, not hopelessly long. Raises InvalidInput, PromptTooLong."""
    given = [name for name in ("text", "chat", "tokens") if getattr(call, name) is not None]
    if len(given) != 1:
        raise InvalidInput(f"expected exactly one of text, chat and tokens, got {' and '.join(given) or 'none'}")
    if call.chat is not None and not call.chat:
        raise InvalidInput("a chat has at least one message, got none")
    if len(call.tokens or ()) > limits.max_context:
        raise PromptTooLong(f"the context holds {limits.max_context} tokens, got {len(call.tokens or ())}")
    if len(call.chat or ()) > limits.max_context:  # each has a token at least
        raise PromptTooLong(f"{len(call.chat or ())} messages cannot fit a context of {limits.max_context} tokens")
    characters = len(call.text or "") + sum(len(role) + len(content) for role, content in call.chat or ())
    if characters > limits.max_context * MAX_CHARACTERS_PER_TOKEN:
        raise PromptTooLong(f"{characters} characters cannot fit a context of {limits.max_context} tokens")


def _check_sampling(sampling: Sampling) -> None:
    _between("temperature", sampling.temperature, 0, 100)
    _between("top_k", sampling.top_k, 0, 2**31 - 1)
    _between("top_p", sampling.top_p, 0, 1, above=True)
    _between("min_p", sampling.min_p, 0, 1)
    _between("repetition_penalty", sampling.repetition_penalty, 0, 10, above=True)
    if sampling.logprobs is not None:
        _between("logprobs", sampling.logprobs, 0, MAX_LOGPROBS)


def _check_stop(stop: Stop) -> None:
    _between("max_new_tokens", stop.max_new_tokens, 0, 2**31 - 1)
    _between("number of stop strings", len(stop.strings), 0, MAX_STOP_STRINGS)
    _between("number of stop tokens", len(stop.token_ids), 0, MAX_STOP_TOKENS)
    for text in stop.strings:
        _between("characters of a stop string", len(text), 1, MAX_STOP_CHARACTERS)


def check_ids(what: str, ids: Sequence[int], vocab_size: int) -> None:
    """Raise InvalidInput where an id is not one of the vocabulary's: the base's, or the adapter's own."""
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InvalidInput(f"{what}: expected 0 to {vocab_size - 1}, got {wrong}")


def _between(what: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    if math.isfinite(value) and low <= value <= high and not (above and value == low):
        return
    expected = f"above {low}, up to {high}" if above else f"{low} to {high}"
    raise InvalidInput(f"{what}: expected {expected}, got {value}")
