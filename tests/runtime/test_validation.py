"""Each range that inference.proto states, at its edges."""

import math
from dataclasses import replace

import pytest

from compute_worker.contract import EngineLimits, Sampling
from compute_worker.runtime.api import GenerateCall, Stop
from compute_worker.runtime.validation import check_call, check_ids, fit
from compute_worker.wording import Constraint, Form
from lorry.errors import InvalidInput, PromptTooLong, RequestTooLarge

LIMITS = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=100, block_tokens=16, max_context=1000)
CALL = GenerateCall(text="hello")


def check(call: GenerateCall) -> None:
    check_call(call, LIMITS)


GOOD_SAMPLING = [
    {"temperature": 0},
    {"temperature": 100},
    {"top_k": 0},
    {"top_p": 1},
    {"top_p": 1e-9},
    {"min_p": 0},
    {"min_p": 1},
    {"repetition_penalty": 10},
    {"logprobs": 0},
    {"logprobs": 20},
]
BAD_SAMPLING = [
    ({"temperature": -0.1}, "temperature: expected 0 to 100, got -0.1"),
    ({"temperature": 100.1}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 0}, "top_p: expected above 0, up to 1, got 0"),
    ({"top_p": 1.1}, "top_p"),
    ({"min_p": -0.1}, "min_p"),
    ({"min_p": 1.1}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": math.inf}, "repetition_penalty"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
]
BAD_STOPS = [
    (Stop(max_new_tokens=-1), "max_new_tokens: expected 0 to 2147483647, got -1"),
    (Stop(strings=("a",) * 17), "number of stop strings: expected 0 to 16, got 17"),
    (Stop(strings=("",)), "characters of a stop string: expected 1 to 256, got 0"),
    (Stop(strings=("a" * 257,)), "characters of a stop string"),
    (Stop(token_ids=(1,) * 65), "number of stop tokens"),
]


@pytest.mark.parametrize("fields", GOOD_SAMPLING, ids=str)
def test_sampling_up_to_its_edges_is_taken(fields: dict[str, float]) -> None:
    check(replace(CALL, sampling=Sampling(**fields)))


@pytest.mark.parametrize(("fields", "message"), BAD_SAMPLING, ids=str)
def test_sampling_beyond_its_edges_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check(replace(CALL, sampling=Sampling(**fields)))


@pytest.mark.parametrize(("stop", "message"), BAD_STOPS, ids=lambda value: str(value)[:40])
def test_stop_conditions_beyond_their_edges_are_refused(stop: Stop, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check(replace(CALL, stop=stop))


def test_stop_conditions_at_their_edges_are_taken() -> None:
    check(replace(CALL, stop=Stop(2**31 - 1, ("a" * 256,) * 16, (99,) * 64)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (GenerateCall(), "got none"),
        (GenerateCall(text="a", tokens=(1,)), "got text and tokens"),
        (GenerateCall(chat=()), "at least one message"),
        (GenerateCall(text="a", seed=-1), "seed"),
        (GenerateCall(text="a", seed=2**64), "seed"),
        (GenerateCall(text="a", priority=11), "priority: expected -10 to 10, got 11"),
        (GenerateCall(text="a", tenant="t" * 65), "characters of the tenant: expected 0 to 64, got 65"),
        (GenerateCall(text="a", begin_within=0.0), "begin_within: expected above 0, up to 86400"),
        (GenerateCall(text="a", begin_within=90_000.0), "begin_within"),
        (
            GenerateCall(text="a", constraint=Constraint(Form.GRAMMAR, "a" * 16_385)),
            "characters of grammar: expected 1 to 16384, got 16385",
        ),
        (GenerateCall(text="a", stream_interval=-1), "stream_interval: expected 1 to 2147483647, got -1"),
    ],
)
def test_prompts_seeds_and_turns_that_cannot_be_are_refused(call: GenerateCall, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check(call)


def test_ids_are_those_of_the_vocabulary() -> None:
    check_ids("stop token", [0, 99], 100)
    for wrong in (-1, 100):
        with pytest.raises(InvalidInput, match=f"stop token: expected 0 to 99, got {wrong}"):
            check_ids("stop token", [1, wrong], 100)


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised() -> None:
    with pytest.raises(PromptTooLong, match="10000000 characters"):
        check(GenerateCall(text="a" * 10_000_000))
    with pytest.raises(PromptTooLong, match="10000004 characters"):
        check(GenerateCall(chat=(("user", "a" * 10_000_000),)))
    with pytest.raises(PromptTooLong, match="10000001 characters"):
        check(GenerateCall(chat=(("u" * 10_000_000, "a"),)))
    with pytest.raises(PromptTooLong, match="1001 messages cannot fit a context of 1000 tokens"):
        check(GenerateCall(chat=(("", ""),) * 1001))
    with pytest.raises(PromptTooLong, match="got 1001"):
        check(GenerateCall(tokens=(1,) * 1001))


def test_the_answer_gets_what_was_asked_for_or_what_is_left() -> None:
    assert [fit(10, 0, LIMITS), fit(10, 20, LIMITS), fit(999, 20, LIMITS)] == [256, 20, 1]


def test_a_prompt_that_fills_the_context_or_has_no_token_is_refused() -> None:
    with pytest.raises(PromptTooLong):
        fit(1000, 1, LIMITS)
    with pytest.raises(InvalidInput, match="no tokens"):
        fit(0, 1, LIMITS)


def test_a_request_beyond_the_whole_kv_cache_is_refused() -> None:
    with pytest.raises(RequestTooLarge):
        fit(500, 200, replace(LIMITS, kv_blocks=40))
