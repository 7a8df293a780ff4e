"""A score call, item by item through the batch, and answers that are kept to a form."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from compute_worker.contract import EngineLimits
from compute_worker.runtime.api import FinishReason, ItemScore, ScoreCall, ScoreItem, Weighted
from compute_worker.wording import Constraint, Form
from lorry.errors import (
    AdapterNotFound,
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidGrammar,
    InvalidInput,
    InvalidSelection,
    LorryError,
    PromptTooLong,
    RequestTooLarge,
)
from tests.support.toy_engine import LIMITS, likelihoods
from tests.support.toy_wording import ToyTokenizer
from tests.support.toy_world import World, call, eventually, running


def item(prompt: str, continuation: str, *adapters: str | Weighted) -> ScoreItem:
    selection = tuple(Weighted(one) if isinstance(one, str) else one for one in adapters)
    return ScoreItem(text=prompt, continuation=continuation, selection=selection)


async def score(world: World, *items: ScoreItem, **fields: object) -> list[ItemScore]:
    """All scores, by index."""
    found = [one async for one in world.runtime.score(ScoreCall(items, **fields))]
    return sorted(found, key=lambda one: one.index)


def expected(one: ScoreItem, active: Sequence[tuple[str, float]] = ()) -> tuple[float, ...]:
    prompt, continuation = ToyTokenizer().encode_pair(one.text or "", one.continuation or "")
    return tuple(likelihoods(prompt, continuation, tuple(active)))


async def test_every_token_of_a_continuation_is_scored_behind_all_before_it(world: World) -> None:
    asked = item("once upon", " a time in a small town")
    (found,) = await score(world, asked)
    assert found.logprobs == expected(asked)
    assert found.tokens == tuple(asked.continuation.encode())
    assert (found.prompt_tokens, found.route, found.adapters) == (9, "", ())


async def test_items_have_adapters_of_their_own(world: World) -> None:
    one, two = world.registry.add("one"), world.registry.add("two", rank=4)
    contents = [(world.registry.content(one), 1.0), (world.registry.content(two), -0.5)]
    items = [item("hello", "you"), item("hello", "you", "one"), item("hello", "you", "one", Weighted("two", -0.5))]
    found = await score(world, *items)
    assert [one.logprobs for one in found] == [
        expected(items[0]),
        expected(items[1], contents[:1]),
        expected(items[2], contents),
    ]
    assert [[adapter.digest for adapter in one.adapters] for one in found] == [
        [],
        [one.digest],
        [one.digest, two.digest],
    ]


async def test_an_item_without_a_selection_goes_by_a_route(world: World) -> None:
    one = world.registry.add("one")
    await world.switch("tour", (Weighted("one"),), None)
    (found,) = await score(world, ScoreItem(text="a", continuation="b", route="tour"))
    assert (found.route, found.route_revision, found.adapters[0].digest) == ("tour", 1, one.digest)


async def test_prompts_are_text_chats_and_tokens(world: World) -> None:
    chat = ScoreItem(chat=(("user", "hi"),), continuation="yo", selection=())
    text = item("user: hi\n", "yo")
    ids = ScoreItem(tokens=tuple(b"user: hi\n"), continuation_tokens=tuple(b"yo"), selection=())
    scores = {one.logprobs for one in await score(world, chat, text, ids)}
    assert scores == {expected(text)}


async def test_a_name_is_asked_for_once_a_call(world: World) -> None:
    world.registry.add("one")
    await score(world, *(item("x", str(number), Weighted("one", number)) for number in range(1, 20)))
    assert list(world.registry.resolved.values()) == [1]


async def test_scores_mix_with_answers_and_change_none(world: World) -> None:
    one = world.registry.add("one")
    request = call("hello", "one", max_new=30)
    items = [item("a long text " * 4, f"that ends in {number}", "one") for number in range(12)]
    reply, found = await asyncio.gather(world.ask(request), score(world, *items))
    assert reply.tokens == world.expected(request, (one, 1.0))
    active = [(world.registry.content(one), 1.0)]
    assert [one.logprobs for one in found] == [expected(asked, active) for asked in items]


async def test_a_common_prompt_is_computed_once(world: World) -> None:
    prompt = "what all of them begin with"
    await score(world, item(prompt, "1"))
    before = world.runtime.figures().steps.prompt
    found = await score(world, *(item(prompt, str(number)) for number in range(2, 8)))
    assert [one.logprobs for one in found] == [expected(item(prompt, str(number))) for number in range(2, 8)]
    whole_blocks = len(prompt) // LIMITS.block_tokens * LIMITS.block_tokens
    assert world.runtime.figures().steps.prompt - before <= 6 * (len(prompt) + 1 - whole_blocks)


async def test_what_is_scored_is_run_though_it_was_computed_before(world: World) -> None:
    text = "a text of some blocks of tokens"
    assert (await score(world, item(text, "!")))[0].logprobs == expected(item(text, "!"))
    for cut in range(1, len(text)):
        asked = item(text[:cut], text[cut:])
        assert (await score(world, asked))[0].logprobs == expected(asked)


async def test_more_items_than_kv_has_room_for_are_all_scored(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=10, block_tokens=4, max_context=40)
    async with running(tmp_path, limits=limits, prefill_tokens=7) as world:
        items = [item(f"{number} " * 6, f"and then {number}") for number in range(40)]
        found = await score(world, *items)
        assert [one.logprobs for one in found] == [expected(asked) for asked in items]


async def test_a_score_outlives_preemption(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=16, block_tokens=4, max_context=48)
    async with running(tmp_path, limits=limits, prefill_tokens=3) as world:
        requests = [call(f"text {number}", max_new=40) for number in range(4)]
        items = [item(f"{number} " * 3, f"and a long continuation {number}") for number in range(8)]
        *replies, found = await asyncio.gather(*(world.ask(request) for request in requests), score(world, *items))
        assert world.runtime.figures().steps.preempted > 0
    assert [reply.tokens for reply in replies] == [world.expected(request) for request in requests]
    assert [one.logprobs for one in found] == [expected(asked) for asked in items]


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ((), InvalidInput, "1 to 1024 items"),
        ((item("a", "b"), item("a", "")), InvalidInput, "item 1: .*tokens of both"),
        ((ScoreItem(continuation="b", selection=()),), InvalidInput, "item 0: .*exactly one of text"),
        ((ScoreItem(text="a", selection=()),), InvalidInput, "item 0: .*continuation"),
        ((ScoreItem(tokens=(999,), continuation="b", selection=()),), InvalidInput, "item 0: .*999"),
        ((item("a", "b"), item("a", "b" * 128)), PromptTooLong, "item 1: .*129"),
        ((item("a", "b"), item("a", "b", "one", "one")), InvalidSelection, "item 1: "),
        ((item("a", "b"), item("a", "b", Weighted("one", float("nan")))), InvalidSelection, "item 1: .*nan"),
        ((item("a", "b"), item("a", "b", "nobody")), AdapterNotFound, "item 1: "),
    ],
)
async def test_what_cannot_be_scored_is_refused_by_item(
    world: World, wrong: tuple[ScoreItem, ...], error: type[LorryError], says: str
) -> None:
    world.registry.add("one")
    with pytest.raises(error, match=says):
        await score(world, *wrong)


async def test_an_item_that_the_kv_cache_can_never_hold_is_refused(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=4, block_tokens=4, max_context=40)
    async with running(tmp_path, limits=limits) as world:
        with pytest.raises(RequestTooLarge, match="item 0: "):
            await score(world, item("a" * 10, "b" * 7))


async def test_a_failed_step_ends_the_call_and_leaves_nothing(world: World) -> None:
    world.engine.broken = 9  # for each of the five, as for all of them together
    with pytest.raises(Internal, match="item "):
        await score(world, *(item("a", str(number)) for number in range(5)))


async def test_a_caller_who_leaves_gives_everything_back(world: World) -> None:
    world.registry.add("one")
    items = tuple(item("some text", str(number), "one") for number in range(100))
    async with aclosing(world.runtime.score(ScoreCall(items))) as scores:
        await anext(scores)
    await eventually(lambda: all(state.leases == 0 for state in world.runtime.residents()))
    assert world.runtime.figures().running == 0


async def test_a_deadline_ends_a_call_that_runs(world: World) -> None:
    loop = asyncio.get_running_loop()
    world.engine.running.clear()
    scoring = asyncio.ensure_future(score(world, item("a", "b" * 60), deadline=loop.time() + 0.2))
    with pytest.raises(DeadlineExceeded, match="item 0: "):
        await scoring
    world.engine.running.set()


async def test_a_cancelled_call_ends(world: World) -> None:
    world.engine.running.clear()
    scoring = asyncio.ensure_future(score(world, item("a", "b")))
    await eventually(lambda: world.runtime.figures().running == 1)
    scoring.cancel()
    with pytest.raises((asyncio.CancelledError, Cancelled)):
        await scoring
    world.engine.running.set()


async def test_an_answer_keeps_to_its_form_and_ends_with_it(world: World) -> None:
    reply = await world.ask(call("hello", max_new=40, constraint=Constraint(Form.REGEX, "abcabc")))
    assert len(reply.text) == 6
    assert set(reply.text) <= set("abc")
    assert (reply.finished.reason, reply.finished.stop) == (FinishReason.STOP, "")
    assert reply.finished.completion_tokens == 6


async def test_forms_of_others_are_others(world: World) -> None:
    forms = ["aabb", "ccddee", "x"]
    free = call("hello", max_new=20)
    requests = [call("hello", max_new=20, constraint=Constraint(Form.REGEX, form)) for form in forms]
    *bound, reply = await asyncio.gather(*(world.ask(request) for request in (*requests, free)))
    assert [len(one.text) for one in bound] == [len(form) for form in forms]
    assert all(set(one.text) <= set(form) for one, form in zip(bound, forms, strict=True))
    assert reply.tokens == world.expected(free)


async def test_a_form_outlives_preemption(tmp_path: Path) -> None:
    limits = EngineLimits(pool_rows=4, row_bytes=1, kv_blocks=12, block_tokens=4, max_context=40)
    form = Constraint(Form.REGEX, "abcdefghij" * 3)
    requests = [call(f"text {number}", max_new=40, constraint=form) for number in range(6)]
    async with running(tmp_path / "crowded", limits=limits) as world:
        together = await asyncio.gather(*(world.ask(request) for request in requests))
        assert world.runtime.figures().steps.preempted > 0
    async with running(tmp_path / "alone") as world:
        alone = [await world.ask(request) for request in requests]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert all(len(one.tokens) == 30 for one in alone)


async def test_a_form_that_cannot_be_followed_ends_its_own_request(world: World) -> None:
    free = call("hello")
    broken, reply = await asyncio.gather(
        world.ask(call("hello", constraint=Constraint(Form.GRAMMAR, "!!"))), world.ask(free), return_exceptions=True
    )
    assert isinstance(broken, InvalidGrammar)
    assert reply.tokens == world.expected(free)


async def test_a_form_has_a_length(world: World) -> None:
    for text in ("", "a" * 65_537):
        with pytest.raises(InvalidInput, match="characters of regex: expected 1 to 65536"):
            await world.ask(call("hello", constraint=Constraint(Form.REGEX, text)))
