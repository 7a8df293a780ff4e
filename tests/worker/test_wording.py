"""Tokenizers and chat templates that travel with an adapter, from its folder to the worker's answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lorry.errors import InvalidAdapter, InvalidInput, InvalidSelection, UnsupportedAdapter
from lorry.v1 import inference_pb2 as pb
from lorry.v1.types_pb2 import Selection, WeightedAdapter
from tests.support.kinds import resized_model
from tests.support.pair import Pair, agrees
from tests.support.peft_adapters import QUIET, save_adapter
from tests.support.worker import MODEL_NAME, tiny_adapter, tiny_llama

pytestmark = QUIET
CHAT = [("user", "hi")]
TEMPLATE = "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"


async def started(pair: Pair, adapter: str, **prompt: object) -> pb.GenerateStarted:
    selection = Selection(adapters=[WeightedAdapter(adapter=adapter)])
    first, *_ = await pair.stubs.generate(selection=selection, stop=pb.StopConditions(max_new_tokens=1), **prompt)
    served: pb.GenerateStarted = first.started
    return served


async def publish(pair: Pair, name: str, seed: int, **files: str) -> Path:
    """An adapter and texts beside it, the dots of their names as two underscores."""
    folder = tiny_adapter(pair.path(name), seed)
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text)
    await pair.registry.push(folder, name)
    return folder


async def test_a_conversation_goes_through_the_adapters_template(pair: Pair) -> None:
    folder = await publish(pair, "one", 1, chat_template__jinja=TEMPLATE)
    tokens = pair.serving.tokenizer.encode("<hi>:")
    given = await pair.answer("one", prompt=None, messages=CHAT)
    assert agrees(given, tiny_llama(), [folder], tokens)
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    assert (await started(pair, "one", chat=chat)).tokenizer_digest.startswith("sha256:")
    assert (await started(pair, "one", chat=chat)).prompt_tokens == len(tokens)


async def test_an_adapter_is_spoken_to_and_speaks_in_its_own_tokens(pair: Pair, model: Path) -> None:
    folder = tiny_adapter(pair.path("one"), 1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(folder)
    fields = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = fields["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    await pair.registry.push(folder, "one")
    turned = pair.serving.tokenizer.encode("axb".replace("x", "y"))
    given = await pair.answer("one", prompt="axb")
    assert agrees(given, tiny_llama(), [folder], turned)
    asked = pair.worker.generate(tokens=turned, adapters="one", max_new_tokens=40, ignore_eos=True)
    messages = [message async for message in asked]
    drawn = [token for message in messages for token in message.delta.token_ids]
    plain = pair.serving.tokenizer.decode(drawn)
    assert "".join(message.delta.text for message in messages) == plain.translate(str.maketrans("xy", "yx"))


async def test_a_template_that_hangs_or_names_code_hurts_nobody_else(pair: Pair) -> None:
    await publish(pair, "bomb", 1, chat_template__jinja="{{ 'a' * 10 ** 11 }}")
    await publish(pair, "code", 2, tokenizer_config__json='{"auto_map": {"AutoTokenizer": ["x.X", null]}}')
    await publish(pair, "slow", 3, vocab__json="{}", merges__txt="")
    with pytest.raises(InvalidInput, match="refuses the conversation: MemoryError"):
        await pair.answer("bomb", prompt=None, messages=CHAT)
    with pytest.raises(UnsupportedAdapter, match="auto_map names code"):
        await pair.answer("code", prompt=None, messages=CHAT)
    with pytest.raises(UnsupportedAdapter, match=r"got merges\.txt, vocab\.json alone"):
        await pair.answer("slow", prompt=None, messages=CHAT)
    base = await pair.answer(prompt=None, messages=CHAT)
    assert agrees(base, tiny_llama(), [], pair.serving.tokenizer.encode_chat(CHAT))
    assert await pair.idle()


async def test_two_that_bring_different_templates_are_not_served_together(pair: Pair) -> None:
    for seed, name in enumerate(("one", "two")):
        await publish(pair, name, seed, chat_template__jinja=f"{name}: {TEMPLATE}")
    with pytest.raises(InvalidSelection, match="one and two bring different tokenizers or chat templates"):
        await pair.answer(["one", "two"])
    with pytest.raises(InvalidSelection, match="different tokenizers"):
        await pair.worker.switch(["one", "two"])


async def test_scores_tell_whose_tokenizer_they_are_by(pair: Pair) -> None:
    await publish(pair, "one", 1, chat_template__jinja=TEMPLATE)
    items = [
        {"messages": CHAT, "continuation": "yo", "adapters": "one"},
        {"messages": CHAT, "continuation": "yo", "adapters": []},
    ]
    scores = {score.index: score async for score in pair.worker.score(items)}
    assert scores[0].tokenizer_digest.startswith("sha256:")
    assert scores[1].tokenizer_digest == ""
    assert (scores[0].prompt_tokens, scores[1].prompt_tokens) == (5, len(pair.serving.tokenizer.encode_chat(CHAT)))


async def test_capabilities_name_what_adapters_may_have(pair: Pair) -> None:
    assert list((await pair.worker.capabilities()).features) == [
        "alora",
        "bias",
        "embedding",
        "modules_to_save",
        "target_parameters",
        "trainable_tokens",
    ]


async def test_a_resized_vocabulary_with_its_tokenizer_is_read_written_and_kept_to_a_form(
    pair: Pair, model: Path
) -> None:
    own = resized_model("llama", 140)
    config = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    folder = save_adapter(own, pair.path("wide"), **config)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(folder)
    await pair.registry.push(folder, "wide", base=MODEL_NAME)
    tokens = tokenizer("ab<think>c")["input_ids"]
    assert max(tokens) >= tiny_llama().config.vocab_size
    assert agrees(await pair.answer("wide", prompt="ab<think>c"), own, [folder], tokens)
    form = "[ab]{2,4}: [0-9]"
    written = await pair.worker.generate("say", adapters="wide", regex=form, max_new_tokens=40).text()
    assert re.fullmatch(form, written)
    with pytest.raises(InvalidInput, match="prompt token: expected 0 to 130, got 131"):
        await pair.answer([], prompt=None, tokens=tokens)
    with pytest.raises(InvalidInput, match="prompt token: expected 0 to 139, got 140"):
        await pair.answer("wide", prompt=None, tokens=[140])


async def test_a_tokenizer_that_outgrew_the_model_is_refused_with_the_remedy(pair: Pair, model: Path) -> None:
    folder = tiny_adapter(pair.path("grown"), 1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<think>"])
    tokenizer.save_pretrained(folder)
    await pair.registry.push(folder, "grown")
    with pytest.raises(
        InvalidAdapter, match=r"ids up to 131, its vocabulary has 131 tokens: save the resized embeddings"
    ):
        await pair.answer("grown")
