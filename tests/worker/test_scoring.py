"""Scores and answers of a form, over the wire, with real adapters in one batch."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from lorry.errors import AdapterNotFound, DeadlineExceeded, InvalidGrammar, InvalidInput, RouteNotFound
from lorry.scoring import Item
from lorry.search import grid
from lorry.v1 import inference_pb2 as pb
from tests.support.pair import TOLERANCE, Pair
from tests.support.peft_adapters import QUIET, peft_logits
from tests.support.registry import until
from tests.support.worker import tiny_llama

pytestmark = QUIET

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["calm", "wild"]}, "knots": {"type": "integer", "minimum": 0, "maximum": 40}},
    "required": ["mood", "knots"],
    "additionalProperties": False,
}


async def scores(pair: Pair, *items: Item, **options: float) -> list[pb.ScoreResponse]:
    return sorted([score async for score in pair.worker.score(items, **options)], key=lambda score: score.index)


def right(pair: Pair, score: pb.ScoreResponse, item: Item, weights: dict[str, float]) -> bool:
    """Whether PEFT would have scored the same."""
    prompt, continuation = pair.serving.tokenizer.encode_pair(item["prompt"], item["continuation"])
    text = [*prompt, *continuation]
    logits = peft_logits(tiny_llama(), [pair.path(name) for name in weights], text[:-1], list(weights.values()))
    rows = logits[len(prompt) - 1 :].log_softmax(-1)
    expected = rows[range(len(continuation)), continuation]
    assert [token.token_id for token in score.tokens] == continuation
    assert [token.greedy for token in score.tokens] == [
        best == token for best, token in zip(rows.argmax(-1).tolist(), continuation, strict=True)
    ]
    assert score.logprob == pytest.approx(sum(token.logprob for token in score.tokens))
    return [token.logprob for token in score.tokens] == pytest.approx(expected.tolist(), abs=TOLERANCE)


async def test_scores_are_pefts_beside_answers_of_everybody(pair: Pair) -> None:
    await pair.publish("plain")
    await pair.publish("other", rank=5, rslora=True)
    await pair.publish("directed", rank=3, dora=True)
    selections = [{}, {"plain": 1.0}, {"directed": 1.0}, {"plain": 0.7, "other": -1.5}]
    texts: list[Item] = [
        {"prompt": "the quick brown fox", "continuation": " jumps over"},
        {"prompt": "two blanks at the end  ", "continuation": "word"},
        {"prompt": "", "continuation": "from the beginning"},
    ]
    alone = await pair.answer("plain")
    items: list[Item] = [{**text, "adapters": selection} for selection in selections for text in texts]

    beside, found = await asyncio.gather(pair.answer("plain"), scores(pair, *items))

    assert beside.same_as(alone)
    for score, item in zip(found, items, strict=True):
        assert right(pair, score, item, dict(item["adapters"])), item
        assert [adapter.adapter for adapter in score.adapters] == list(item["adapters"])
    await until(pair.idle)


async def test_a_greedy_answer_scores_as_greedy_and_with_its_own_log_probabilities(pair: Pair) -> None:
    await pair.publish("plain")
    answer = await pair.answer("plain", length=8)
    prompt = pair.serving.tokenizer.encode("the quick brown fox")
    other = [*answer.tokens[:-1], 5 + answer.tokens[-1] % 7]
    items: list[Item] = [
        {"tokens": prompt, "continuation_tokens": tokens, "adapters": "plain"} for tokens in (answer.tokens, other)
    ]
    same, different = await scores(pair, *items)
    expected = [top[token] for top, token in zip(answer.top, answer.tokens, strict=True)]
    assert [token.logprob for token in same.tokens] == pytest.approx(expected, abs=TOLERANCE)
    assert (same.greedy, different.greedy) == (True, False)


async def test_a_route_scores_as_what_it_points_to(pair: Pair) -> None:
    await pair.publish("plain")
    await pair.worker.switch("plain", route="tour")
    text: Item = {"prompt": "x", "continuation": "y"}
    by_route, named, default = await scores(pair, {**text, "route": "tour"}, {**text, "adapters": "plain"}, text)
    assert by_route.logprob == pytest.approx(named.logprob, abs=TOLERANCE) != default.logprob
    assert (by_route.route, by_route.route_revision, default.route, default.route_revision) == ("tour", 1, "default", 1)


async def test_any_number_of_items_are_scored_and_counted_through(pair: Pair) -> None:
    words = [f"word {number % 40}" for number in range(600)]
    found = await scores(pair, *({"prompt": "a", "continuation": word, "adapters": []} for word in words))
    assert [score.index for score in found] == list(range(600))
    by_word: dict[str, set[float]] = {}
    for word, score in zip(words, found, strict=True):
        by_word.setdefault(word, set()).add(round(score.logprob, 3))
    assert all(len(values) == 1 for values in by_word.values())


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ({"prompt": "a", "continuation": "b", "adapters": "nobody"}, AdapterNotFound),
        ({"prompt": "a", "continuation": "b", "route": "nowhere"}, RouteNotFound),
        ({"prompt": "a", "continuation": ""}, InvalidInput),
        ({"prompt": "a", "tokens": [1], "continuation": "b"}, InvalidInput),
        ({"prompt": "a"}, InvalidInput),
        ({"prompt": "a", "continuation": "b", "weight": 1}, InvalidInput),
    ],
)
async def test_an_error_says_which_item_it_is_about(pair: Pair, item: Item, error: type[Exception]) -> None:
    with pytest.raises(error, match="item 1: "):
        await scores(pair, {"prompt": "a", "continuation": "b"}, item)


async def test_a_deadline_ends_the_call_and_frees_everything(pair: Pair) -> None:
    items: list[Item] = [{"prompt": "x" * 2000, "continuation": f"{number}" * 400} for number in range(400)]
    with pytest.raises(DeadlineExceeded):
        await scores(pair, *items, timeout=0.2)
    await until(pair.idle)


async def test_the_search_tells_each_candidate_by_the_sum_of_its_scores(pair: Pair) -> None:
    await pair.publish("one")
    await pair.publish("two", rank=3)
    examples: list[Item] = [{"prompt": "a", "continuation": "bc"}, {"messages": [("user", "d")], "continuation": "e"}]
    candidates = list(grid(["one", "two"], 4))
    found = sorted([one async for one in pair.worker.search(candidates, examples)], key=lambda one: one.index)
    assert [one.weights for one in found] == candidates
    again = await scores(pair, *({**example, "adapters": candidates[1]} for example in examples))
    assert found[1].logprob == pytest.approx(sum(score.logprob for score in again), abs=TOLERANCE)
    assert found[1].tokens == 3


async def test_answers_of_many_adapters_keep_to_their_forms_in_one_batch(pair: Pair) -> None:
    names = [f"a{rank}" for rank in range(1, 5)]
    for rank, name in enumerate(names, 1):
        await pair.publish(name, rank=rank, dora=rank == 3)
    drawn = {"temperature": 1.5, "max_new_tokens": 200, "timeout": 60}

    async def text(adapters: str, seed: int, **form: object) -> str:
        return await pair.worker.generate("say", adapters=adapters, seed=seed, **drawn, **form).text()

    jobs = [(name, seed) for name in names for seed in range(3)]
    free = [pair.answer(name) for name in names]
    objects = [text(name, seed, json_schema=SCHEMA) for name, seed in jobs]
    words = [text(name, seed, regex="(ahoy|arr)( matey){1,2}!") for name, seed in jobs]
    sums = [text(name, seed, grammar='start: N | start "+" N\nN: /[0-9]/') for name, seed in jobs]
    alone = [await pair.answer(name) for name in names]
    answers, written, said, added = await asyncio.gather(
        *(asyncio.gather(*kind) for kind in (free, objects, words, sums))
    )

    assert all(one.same_as(other) for one, other in zip(alone, answers, strict=True))
    for one in map(json.loads, written):
        assert one.keys() == {"mood", "knots"}
        assert one["mood"] in {"calm", "wild"}
        assert 0 <= one["knots"] <= 40
    assert all(re.fullmatch("(ahoy|arr)( matey){1,2}!", one) for one in said)
    # This one may go on for ever: what was cut off is a beginning of such a text.
    assert all(re.fullmatch(r"[0-9](\+[0-9])*\+?", one) for one in added)
    assert len({*written, *said, *added}) > len(jobs)


async def test_the_end_of_a_form_is_the_end_of_the_answer(pair: Pair) -> None:
    stop = pb.StopConditions(max_new_tokens=50, ignore_eos=True)
    *deltas, last = await pair.stubs.generate(text="x", regex="abc", stop=stop, logprobs=0)
    assert "".join(message.delta.text for message in deltas) == "abc"
    assert (last.finished.reason, last.finished.stop, last.finished.completion_tokens) == (pb.FINISH_REASON_STOP, "", 3)
    stop.strings.append("b")
    *deltas, last = await pair.stubs.generate(text="x", regex="abc", stop=stop)
    assert "".join(message.delta.text for message in deltas) == "a"
    assert last.finished.stop == "b"


async def test_a_form_that_is_none_is_refused(pair: Pair) -> None:
    with pytest.raises(InvalidGrammar, match="regex: "):
        await pair.worker.generate("x", regex="[a").text()
    with pytest.raises(InvalidInput, match="at most one of"):
        pair.worker.generate("x", regex="a", grammar='start: "a"')
