from __future__ import annotations

import json
from pathlib import Path

import pytest

from compute_worker.engine.tokenizer import HfTokenizer
from lorry.errors import InvalidInput, PromptTooLong
from tests.support.models import config_of
from tests.support.tokenizers import saved_tokenizer

CONFIG = config_of("llama")


def test_text_goes_to_ids_and_back(tmp_path: Path) -> None:
    tokenizer = HfTokenizer.load(str(saved_tokenizer(tmp_path)), CONFIG)

    assert tokenizer.decode(tokenizer.encode("Grüße, dog!")) == "Grüße, dog!"


def test_a_cut_character_comes_out_as_replacement(tmp_path: Path) -> None:
    tokenizer = HfTokenizer.load(str(saved_tokenizer(tmp_path)), CONFIG)

    assert tokenizer.decode(tokenizer.encode("aü")[:2]) == "a\N{REPLACEMENT CHARACTER}"


def test_special_tokens_are_left_out_of_text(tmp_path: Path) -> None:
    tokenizer = HfTokenizer.load(str(saved_tokenizer(tmp_path)), CONFIG)

    assert tokenizer.decode(tokenizer.encode("<s>a</s>")) == "a"


def test_a_conversation_goes_through_the_template(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    tokenizer = HfTokenizer.load(str(saved_tokenizer(tmp_path, template)), CONFIG)

    assert tokenizer.decode(tokenizer.encode_chat([("user", "hi"), ("assistant", "yo")])) == "[user]hi[assistant]yo>"


def test_a_conversation_without_a_template_is_a_typed_error(tmp_path: Path) -> None:
    tokenizer = HfTokenizer.load(str(saved_tokenizer(tmp_path)), CONFIG)

    with pytest.raises(InvalidInput, match="no chat template"):
        tokenizer.encode_chat([("user", "hi")])


def test_a_conversation_that_the_template_refuses_is_a_typed_error(tmp_path: Path) -> None:
    tokenizer = HfTokenizer.load(str(saved_tokenizer(tmp_path, "{{ raise_exception('no system role') }}")), CONFIG)

    with pytest.raises(InvalidInput, match="no system role"):
        tokenizer.encode_chat([("system", "hi")])


def test_every_id_that_anybody_calls_an_end_is_one(tmp_path: Path) -> None:
    folder = saved_tokenizer(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    config = config_of("llama")

    tokenizer = HfTokenizer.load(str(folder), config)

    assert tokenizer.eos_ids == {7, 9, config.eos_token_id, tokenizer.encode("</s>")[0]}


def test_ids_are_below_the_rows_of_the_models_embedding(tmp_path: Path) -> None:
    assert HfTokenizer.load(str(saved_tokenizer(tmp_path)), CONFIG).vocab_size == CONFIG.vocab_size


def test_a_folder_without_a_tokenizer_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a tokenizer"):
        HfTokenizer.load(str(tmp_path), CONFIG)


def test_a_tokenizer_that_panics_over_a_text_is_a_typed_error(tmp_path: Path) -> None:
    """To Python a panic is no Exception: unseen, it would end whatever thread it is raised in."""
    file = saved_tokenizer(tmp_path) / "tokenizer.json"
    pieces = [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": {}}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": template}))
    tokenizer = HfTokenizer.load(str(tmp_path), CONFIG)

    with pytest.raises(InvalidInput, match="the tokenizer fails over this text: no entry found for key"):
        tokenizer.encode("a")


def test_a_text_that_has_too_many_tokens_is_not_cut_to_its_end(tmp_path: Path) -> None:
    tokenizer = HfTokenizer.load(str(saved_tokenizer(tmp_path)), CONFIG)
    text = "dog! " * 4000
    tokenizer.limit(100)

    for cut in (tokenizer.encode, tokenizer.encode_more, lambda text: tokenizer.encode_pair(text, "a")):
        with pytest.raises(PromptTooLong, match="holds 100 tokens; the first 800 characters have more"):
            cut(text)


def test_a_long_text_of_few_tokens_is_what_it_is_without_a_limit(tmp_path: Path) -> None:
    tokenizer = HfTokenizer.load(str(saved_tokenizer(tmp_path)), CONFIG)
    text = "dog! " * 4000
    expected = tokenizer.encode(text)
    tokenizer.limit(len(expected) // 4)  # the whole has more, and is within what the first look reads

    assert len(text) < 8 * (len(expected) // 4)
    assert tokenizer.encode(text) == expected
