from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from lorry.errors import DeadlineExceeded, InvalidInput
from lorry.v1 import inference_pb2 as pb
from lorry.v1.types_pb2 import Selection, WeightedAdapter
from tests.support.pair import PROMPT, Pair, agrees, running_pair
from tests.support.peft_adapters import QUIET
from tests.support.registry import until
from tests.support.scraping import Scraped
from tests.support.worker import CONTEXT, tiny_llama

pytestmark = QUIET

# Of the tiny model in float32.
KV_TOKEN_BYTES = 256
ENDLESS = {"max_new_tokens": 4000, "ignore_eos": True}


async def test_started_names_what_serves_the_request(pair: Pair) -> None:
    first, second = await pair.publish("first"), await pair.publish("second", rank=4)
    selection = [WeightedAdapter(adapter="second:prod", weight=-0.5), WeightedAdapter(adapter="first")]
    await pair.registry.set_alias("second", "prod")
    started, *_, finished = await pair.stubs.generate(
        text="hello", selection=Selection(adapters=selection), stop=pb.StopConditions(max_new_tokens=3)
    )
    assert started.started.base_id == pair.serving.engine.base.base_id
    assert [(a.digest, a.weight, a.adapter) for a in started.started.adapters] == [
        (second.digest, -0.5, "second:prod"),
        (first.digest, 1.0, "first"),
    ]
    assert (started.started.prompt_tokens, started.started.route) == (5, "")
    assert finished.finished.completion_tokens == 3
    assert finished.finished.reason == pb.FINISH_REASON_LENGTH


async def test_an_adapters_weights_are_what_answers(pair: Pair) -> None:
    prompt = pair.serving.tokenizer.encode(PROMPT)
    await pair.publish("plain")
    await pair.publish("other", rank=5, rslora=True)
    await pair.publish("directed", rank=3, dora=True)
    for selection in ({}, {"plain": 1}, {"directed": 1}, {"plain": 0.7, "other": -1.5}):
        folders = [pair.path(name) for name in selection]
        given = await pair.answer(selection)
        assert agrees(given, tiny_llama(), folders, prompt, list(selection.values())), selection


async def test_text_chat_and_tokens_are_the_same_prompt(pair: Pair) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    text = "[user]hi[assistant]"
    ids = pair.serving.tokenizer.encode(text)
    stop = pb.StopConditions(max_new_tokens=8, ignore_eos=True)
    answers = [
        "".join(message.delta.text for message in await pair.stubs.generate(**prompt, stop=stop))
        for prompt in ({"text": text}, {"chat": chat}, {"tokens": pb.TokenIds(ids=ids)})
    ]
    assert answers[0] == answers[1] == answers[2]


async def test_an_answer_comes_in_one_piece_where_nobody_reads_along(pair: Pair) -> None:
    stop = pb.StopConditions(max_new_tokens=40, ignore_eos=True)
    streamed = await pair.stubs.generate(text="hi", stop=stop)
    _, *whole, finished = await pair.stubs.generate(text="hi", stop=stop, stream_interval=40)
    assert [t for m in whole for t in m.delta.token_ids] == [t for m in streamed for t in m.delta.token_ids]
    assert "".join(m.delta.text for m in whole) == "".join(m.delta.text for m in streamed)
    assert len(whole) <= 2
    assert finished.finished.completion_tokens == 40


async def test_a_seed_repeats_an_answer_and_the_worker_tells_the_one_it_drew(pair: Pair) -> None:
    async def drawn(**sampling: float) -> tuple[int, str]:
        asked = pb.Sampling(temperature=2.0, **sampling)
        started, *rest = await pair.stubs.generate(text="x", sampling=asked, stop=pb.StopConditions(max_new_tokens=20))
        return started.started.seed, "".join(message.delta.text for message in rest)

    seed, text = await drawn()
    assert await drawn(seed=seed) == (seed, text)
    assert (await drawn(seed=seed + 1))[1] != text


async def test_a_stop_string_ends_the_text_and_is_not_sent(pair: Pair) -> None:
    whole = await pair.worker.generate("hello", adapters=[], max_new_tokens=12, ignore_eos=True).text()
    stop = whole[5:8]
    answer = await pair.stubs.generate(
        text="hello", stop=pb.StopConditions(max_new_tokens=12, ignore_eos=True, strings=[stop])
    )
    assert "".join(message.delta.text for message in answer) == whole[: whole.index(stop)]
    assert (answer[-1].finished.reason, answer[-1].finished.stop) == (pb.FINISH_REASON_STOP, stop)


async def test_log_probabilities_come_as_asked_for(pair: Pair) -> None:
    stop = pb.StopConditions(max_new_tokens=2, ignore_eos=True)

    async def counts(**fields: int) -> tuple[int, int]:
        deltas = [message.delta for message in await pair.stubs.generate(text="x", stop=stop, **fields)]
        return sum(len(d.logprobs) for d in deltas), sum(len(d.top_logprobs) for d in deltas)

    assert await counts() == (0, 0)
    assert await counts(logprobs=0) == (2, 0)
    assert await counts(logprobs=3) == (2, 6)


async def test_an_answer_ends_where_the_context_is_full(pair: Pair) -> None:
    limit = pair.serving.engine.limits.max_context
    assert limit < CONTEXT
    answer = await pair.stubs.generate(
        tokens=pb.TokenIds(ids=[7] * (limit - 3)), stop=pb.StopConditions(max_new_tokens=99, ignore_eos=True)
    )
    assert answer[-1].finished.completion_tokens == 3
    assert answer[-1].finished.reason == pb.FINISH_REASON_LENGTH


async def test_a_cancelled_request_gives_everything_back(pair: Pair) -> None:
    await pair.publish("busy")
    async with pair.worker.generate("x", adapters="busy", **ENDLESS) as answer, aclosing(aiter(answer)) as messages:
        await anext(messages)
        assert await pair.used("kv_tokens") > 0
        assert not await pair.idle()
    await until(pair.idle)


async def test_a_caller_whose_connection_breaks_gives_everything_back(pair: Pair) -> None:
    await pair.publish("busy")
    request = pb.GenerateRequest(
        text="x",
        selection=Selection(adapters=[WeightedAdapter(adapter="busy")]),
        stop=pb.StopConditions(**ENDLESS),
    )
    call = pair.stubs.inference.Generate(request)
    await call.read()
    assert not await pair.idle()
    await pair.stubs.channel.close(grace=None)
    await until(pair.idle)


async def test_a_request_ends_at_its_deadline_and_gives_everything_back(pair: Pair) -> None:
    await pair.publish("busy")
    await pair.worker.load("busy")
    answer = aiter(pair.worker.generate("x", adapters="busy", timeout=1, **ENDLESS))
    await anext(answer)
    with pytest.raises(DeadlineExceeded):
        await _read_on(answer)
    await until(pair.idle)


async def _read_on(answer: AsyncIterator[pb.GenerateResponse]) -> None:
    async for _ in answer:
        pass


async def test_many_at_once_answer_as_each_alone(pair: Pair) -> None:
    names = [f"a{rank}" for rank in range(1, 5)]
    for rank, name in enumerate(names, 1):
        await pair.publish(name, rank=rank, dora=rank == 3)
    selections = [(), *names, {"a1": 0.5, "a2": -1.0}]
    alone = [await pair.answer(selection) for selection in selections]
    together = await asyncio.gather(*(pair.answer(selection) for selection in selections * 2))
    assert all(one.same_as(other) for one, other in zip(alone * 2, together, strict=True))


async def test_a_common_beginning_is_computed_once_and_answers_the_same(pair: Pair) -> None:
    prompt = pb.TokenIds(ids=list(range(3, 53)))
    await pair.publish("one")
    selection = Selection(adapters=[WeightedAdapter(adapter="one")])
    stop = pb.StopConditions(max_new_tokens=8, ignore_eos=True)
    answers = [await pair.stubs.generate(tokens=prompt, selection=selection, stop=stop) for _ in range(2)]
    texts = ["".join(message.delta.text for message in answer) for answer in answers]
    assert texts[0] == texts[1]
    assert [answer[0].started.cached_tokens for answer in answers] == [0, 48]
    assert [answer[-1].finished.cached_tokens for answer in answers] == [0, 48]
    assert await pair.used("prefix_tokens") > 0


async def test_turns_that_cannot_be_are_refused(pair: Pair) -> None:
    for turn in ({"priority": 11}, {"tenant": "t" * 65}, {"begin_within": Duration()}):
        with pytest.raises(InvalidInput):
            await pair.stubs.generate(text="hello", **turn)


async def test_a_preempted_answer_is_the_one_that_it_would_have_been_alone(tmp_path: Path, model: Path) -> None:
    prompts = [pb.TokenIds(ids=[3 + n] * 20) for n in range(5)]
    seen = Scraped()
    sizes = {"kv_bytes": 192 * KV_TOKEN_BYTES, "metrics_listen": seen.address}
    async with running_pair(tmp_path, model, **sizes) as pair:
        await pair.publish("one", rank=3)
        selection = Selection(adapters=[WeightedAdapter(adapter="one")])
        stop = pb.StopConditions(max_new_tokens=60, ignore_eos=True)

        async def ask(prompt: pb.TokenIds) -> list[int]:
            messages = await pair.stubs.generate(tokens=prompt, selection=selection, stop=stop)
            return [token for message in messages for token in message.delta.token_ids]

        together = await asyncio.gather(*map(ask, prompts))
        assert (await seen.samples())["lorry_worker_preemptions_total"] > 0
        assert together == [await ask(prompt) for prompt in prompts]
