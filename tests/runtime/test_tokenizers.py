"""Tokenizers and chat templates that adapters bring: whose serves a request, and how they come here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from compute_worker.runtime.api import Delta, ScoreCall, ScoreItem, Weighted
from compute_worker.wording import Constraint, Form
from lorry.errors import InvalidAdapter, InvalidInput, InvalidSelection, UnsupportedAdapter
from lorry.format.digest import digest_of
from lorry.format.facts import AdapterFacts
from tests.support.adapters import encode, json_bytes, peft_config, safetensors_bytes, tensors
from tests.support.toy_engine import MODULE, WIDTH, ToyEngine, likelihoods
from tests.support.toy_registry import ToyRegistry
from tests.support.toy_wording import ToyTokenizer
from tests.support.toy_world import Reply, World, call, running

KEY = {"tokenizer.json": b"7"}
OTHER_KEY = {"tokenizer.json": b"9"}
OPENING = {"chat_template.jinja": b"Once. "}
CHAT = (("user", "hi"),)


async def said(world: World, *adapters: str | Weighted, **fields: object) -> Reply:
    """An answer to a chat."""
    return await world.ask(call("", *adapters, text=None, chat=CHAT, **fields))


async def test_an_adapters_own_tokenizer_reads_and_writes(world: World) -> None:
    one = world.registry.add("one", files=KEY)
    own = ToyTokenizer(7)
    reply = await world.ask(call("hello", "one"))
    assert reply.tokens == world.expected(call(own.encode("hello")), (one, 1.0))
    assert reply.text == own.decode(reply.tokens)
    assert reply.started.tokenizer.startswith("sha256:")
    assert (await world.ask(call("hello"))).started.tokenizer == ""


async def test_a_chat_template_alone_serves_with_the_bases_tokens(world: World) -> None:
    one = world.registry.add("one", files=OPENING)
    reply = await said(world, "one")
    assert reply.tokens == world.expected(call(ToyTokenizer(0, "Once. ").encode_chat(CHAT)), (one, 1.0))
    assert (await said(world)).tokens == world.expected(call(ToyTokenizer().encode_chat(CHAT)))


async def test_a_prompt_of_tokens_is_answered_in_the_adapters_words(world: World) -> None:
    world.registry.add("one", files=KEY)
    reply = await world.ask(call([1, 2, 3], "one"))
    assert reply.text == ToyTokenizer(7).decode(reply.tokens)


async def test_adapters_that_bring_the_same_share_it(world: World) -> None:
    one, two = world.registry.add("one", files=KEY), world.registry.add("two", files=KEY)
    request = call(ToyTokenizer(7).encode("hello"), "one", "two")
    digests = {(await world.ask(call("hello", name))).started.tokenizer for name in ("one", "two")}
    reply = await world.ask(call("hello", "one", "two"))
    assert digests == {reply.started.tokenizer}
    assert reply.tokens == world.expected(request, (one, 1.0), (two, 1.0))
    assert world.registry.fetched[digest_of(KEY["tokenizer.json"])] == 1


async def test_one_that_brings_none_goes_by_the_other(world: World) -> None:
    one, two = world.registry.add("one"), world.registry.add("two", files=KEY)
    reply = await world.ask(call("hello", "one", "two"))
    assert reply.tokens == world.expected(call(ToyTokenizer(7).encode("hello")), (one, 1.0), (two, 1.0))


async def test_different_ones_are_refused_but_where_one_has_no_weight(world: World) -> None:
    world.registry.add("one", files=KEY)
    two = world.registry.add("two", files=OTHER_KEY)
    with pytest.raises(InvalidSelection, match="one and two bring different tokenizers"):
        await world.ask(call("hello", "one", "two"))
    with pytest.raises(InvalidSelection, match="different tokenizers"):
        await world.switch("tour", (Weighted("one"), Weighted("two")), None)
    reply = await world.ask(call("hello", Weighted("one", 0.0), "two"))
    assert reply.started.tokenizer == (await world.ask(call("hello", "two"))).started.tokenizer
    assert reply.text == ToyTokenizer(9).decode(reply.tokens)
    assert two.digest in {adapter.digest for adapter in reply.started.adapters}


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({"tokenizer.json": b"broken"}, InvalidAdapter, "broken"),
        ({"tokenizer.json": b"300"}, InvalidAdapter, "ids up to 300, its vocabulary has 257 tokens"),
        ({"vocab.json": b"{}", "merges.txt": b""}, UnsupportedAdapter, "got merges.txt, vocab.json alone"),
        ({"chat_template.jinja": b" " * 5000}, UnsupportedAdapter, "expected at most 4096 bytes, got 5000"),
    ],
)
async def test_what_cannot_serve_is_refused_and_serves_nobody_else(
    world: World, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], error: type[Exception], says: str
) -> None:
    monkeypatch.setattr("compute_worker.runtime.tokenizers.MAX_TEXT_BYTES", 4096)
    world.registry.add("one", files=files)
    for _ in range(2):
        with pytest.raises(error, match=says):
            await world.ask(call("hello", "one"))
    request = call("hello")
    assert (await world.ask(request)).tokens == world.expected(request)


async def test_vocabularies_of_slow_tokenizers_are_neither_fetched_nor_read_beside_a_fast_one(world: World) -> None:
    files = {**KEY, "vocab.json": b"{}", "README.md": b"# one"}
    world.registry.add("one", files=files)
    assert (await world.ask(call("hello", "one"))).started.tokenizer
    assert {name for name, data in files.items() if world.registry.fetched[digest_of(data)]} == {"tokenizer.json"}


async def test_it_comes_with_the_adapter_so_that_the_registry_may_be_down_then(world: World) -> None:
    one = world.registry.add("one", files=KEY)
    await world.runtime.load(f"one@{one.digest}")
    world.registry.down = True
    reply = await world.ask(call("hello", f"one@{one.digest}"))
    assert reply.text == ToyTokenizer(7).decode(reply.tokens)


async def test_it_is_here_after_a_restart(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = registry.add("one", files=KEY)
    async with running(tmp_path, registry=registry) as world:
        before = await world.ask(call("hello", f"one@{one.digest}"))
    registry.down = True
    async with running(tmp_path, registry=registry) as world:
        after = await world.ask(call("hello", f"one@{one.digest}"))
    assert (after.tokens, after.started.tokenizer) == (before.tokens, before.started.tokenizer)


async def test_few_are_kept_and_those_that_were_let_go_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compute_worker.runtime.tokenizers._KEPT_BYTES", 1)
    world.registry.add("one", files=KEY)
    world.registry.add("two", files=OTHER_KEY)
    for name, key in (("one", 7), ("two", 9), ("one", 7)):
        reply = await world.ask(call("hello", name))
        assert reply.text == ToyTokenizer(key).decode(reply.tokens)
        assert len(world.runtime._tokenizers._kept) == 1


async def test_those_who_come_together_load_it_once_and_none_holds_up_the_base(world: World) -> None:
    world.registry.add("one", files=KEY)
    gate = world.registry.held.setdefault(digest_of(KEY["tokenizer.json"]), asyncio.Event())
    waiting = [asyncio.create_task(world.ask(call("hello", "one"))) for _ in range(4)]
    request = call("hello")
    assert (await world.ask(request)).tokens == world.expected(request)
    gate.set()
    assert len({tuple(reply.tokens) for reply in await asyncio.gather(*waiting)}) == 1
    assert world.registry.fetched[digest_of(KEY["tokenizer.json"])] == 1


async def test_a_session_keeps_the_tokenizer_with_the_version(world: World) -> None:
    old = world.registry.add("one", files=KEY)
    world.registry.point("one", "prod", old)
    first = await world.ask(call("hello", "one:prod", session="s"))
    world.registry.point("one", "prod", world.registry.add("one", seed=5, files=OTHER_KEY))
    again = await world.ask(call("hello", selection=None, session="s"))
    moved = await world.ask(call("hello", "one:prod"))
    assert first.started.tokenizer == again.started.tokenizer != moved.started.tokenizer
    assert first.tokens == again.tokens


async def test_each_item_of_a_score_is_read_by_its_own(world: World) -> None:
    published = [world.registry.add("one", files=KEY), world.registry.add("two", files=OTHER_KEY)]
    names = ("one", "two", "one", None)
    items = [ScoreItem(text="hello", continuation="you", selection=(Weighted(name),) if name else ()) for name in names]
    scores = sorted([one async for one in world.runtime.score(ScoreCall(tuple(items)))], key=lambda one: one.index)
    for score, (key, one) in zip(scores, [(7, 0), (9, 1), (7, 0), (0, None)], strict=True):
        active = () if one is None else ((world.registry.content(published[one]), 1.0),)
        own = ToyTokenizer(key)
        assert list(score.logprobs) == likelihoods(own.encode("hello"), own.encode("you"), active)
        assert bool(score.tokenizer) == (one is not None)


def widened(rows: int, *modules: str) -> tuple[bytes, bytes]:
    """An adapter that replaces these modules by others of so many rows."""
    arrays = tensors({MODULE: (WIDTH, WIDTH, 2)})
    for module in modules:
        arrays[f"base_model.model.{module}.weight"] = arrays[f"base_model.model.{MODULE}.lora_A.weight"][:1].repeat(
            rows, axis=0
        )
    config = peft_config(target_modules=[MODULE], modules_to_save=["lm_head", "embed_tokens"])
    return json_bytes(config), safetensors_bytes(encode(arrays))


ENDS = ("lm_head", "model.embed_tokens")


async def test_an_own_vocabulary_bounds_the_ids_of_its_requests_and_the_base_keeps_its_own(world: World) -> None:
    wide = world.registry.add_bytes("wide", *widened(300, *ENDS))
    request = call([299, 1], "wide", max_new=4)
    assert (await world.ask(request)).tokens == world.expected(request, (wide, 1.0))
    with pytest.raises(InvalidInput, match="prompt token: expected 0 to 299, got 300"):
        await world.ask(call([300], "wide"))
    with pytest.raises(InvalidInput, match="prompt token: expected 0 to 256, got 299"):
        await world.ask(call([299]))
    narrow = world.registry.add_bytes("narrow", *widened(200, *ENDS))
    with pytest.raises(InvalidInput, match="prompt token: expected 0 to 199, got 200"):
        await world.ask(call([200], "narrow"))
    stop = call([1], "wide").stop
    with pytest.raises(InvalidInput, match="stop token: expected 0 to 299, got 300"):
        await world.ask(call([1], "wide", stop=type(stop)(token_ids=(300,))))
    items = tuple(
        ScoreItem(tokens=(1,), continuation_tokens=(250,), selection=(Weighted(name),)) for name in ("wide", "narrow")
    )
    with pytest.raises(InvalidInput, match="item 1: continuation token: expected 0 to 199, got 250"):
        assert [one async for one in world.runtime.score(ScoreCall(items))]
    assert narrow.digest in world.tiers()


async def test_a_form_has_as_many_bits_as_the_vocabulary(world: World) -> None:
    world.registry.add_bytes("wide", *widened(300, *ENDS), files={"tokenizer.json": b"299"})
    own = ToyTokenizer(299)
    reply = await world.ask(call([1], "wide", constraint=Constraint(Form.REGEX, "abc")))
    assert set(reply.tokens) <= set(b"abc")
    assert reply.text == own.decode(reply.tokens)


async def test_who_is_alone_is_told_why(world: World) -> None:
    for name in ("plain", "dora"):
        world.registry.add(name, dora=name == "dora")
    world.registry.add_bytes("wide", *widened(300, *ENDS))
    with pytest.raises(InvalidSelection, match="dora is DoRA: expected no other adapter beside it"):
        await world.ask(call("hello", "dora", "plain"))
    with pytest.raises(InvalidSelection, match=r"wide replaces lm_head, model\.embed_tokens: expected no other"):
        await world.ask(call("hello", "wide", "plain"))
    with pytest.raises(InvalidSelection, match=r"wide replaces .*: expected weight 1, got 0\.5"):
        await world.ask(call("hello", Weighted("wide", 0.5)))


async def test_what_is_replaced_takes_the_rows_that_the_engine_says(tmp_path: Path) -> None:
    class Greedy(ToyEngine):
        def rows_of(self, facts: AdapterFacts) -> int:
            return 7 + super().rows_of(facts)

    async with running(tmp_path, engine=Greedy()) as world:
        wide = world.registry.add_bytes("wide", *widened(300, *ENDS))
        request = call([299, 1], "wide", max_new=4)
        assert (await world.ask(request)).tokens == world.expected(request, (wide, 1.0))
        assert world.budget("pool_rows") == 9


async def test_an_answer_may_be_read_as_it_comes(world: World) -> None:
    world.registry.add("one", files=KEY)
    deltas = [item async for item in world.runtime.generate(call("hello", "one")) if isinstance(item, Delta)]
    assert "".join(delta.text for delta in deltas) == (await world.ask(call("hello", "one"))).text
