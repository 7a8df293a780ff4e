"""Tokenizers and chat templates of strangers: what is read of their files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tokenizers import AddedToken, Regex, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from compute_worker.engine.tokenizer import HfTokenizer
from compute_worker.wording import Constraint, Form
from lorry.errors import InvalidAdapter, InvalidInput, LorryError, UnsupportedAdapter
from tests.support.models import config_of
from tests.support.tokenizers import VOCABULARY, saved_tokenizer

# Of the fields of one of its files.
Change: TypeAlias = Callable[[dict[str, Any]], object]
CHAT = [("user", "hi"), ("assistant", "yo")]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> HfTokenizer:
    return HfTokenizer.load(
        str(saved_tokenizer(tmp_path_factory.mktemp("base"), "base: " + TEMPLATE)), config_of("llama")
    )


def brought(folder: Path, *names: str) -> dict[str, Path]:
    """The files of a folder, or these of them."""
    return {path.name: path for path in folder.iterdir() if not names or path.name in names}


def edited(folder: Path, name: str, change: Change) -> dict[str, Path]:
    """A saved tokenizer, one of its files changed."""
    path = saved_tokenizer(folder, TEMPLATE) / name
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    return brought(folder)


def test_tokens_that_were_added_are_read_and_written(base: HfTokenizer, tmp_path: Path) -> None:
    saved_tokenizer(tmp_path, TEMPLATE)
    more = AutoTokenizer.from_pretrained(tmp_path)
    more.add_tokens([AddedToken("<think>", special=False), AddedToken("<tool>", special=True)])
    more.save_pretrained(tmp_path)
    own = base.beside(brought(tmp_path))
    assert own.encode_more("a<think>") == more("a<think>", add_special_tokens=False)["input_ids"]
    assert own.decode(own.encode_more("a<think>b<tool>")) == "a<think>b"
    assert (own.size, base.size, own.vocab_size) == (VOCABULARY + 2, VOCABULARY, base.vocab_size)


def test_it_is_what_transformers_loads_from_the_same_files(base: HfTokenizer, tmp_path: Path) -> None:
    own, loaded = base.beside(brought(saved_tokenizer(tmp_path, TEMPLATE))), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("", "Grüße, dog!", "<s>a</s>\n\tb", "\N{GRINNING FACE}"):
        assert own.encode(text) == loaded(text)["input_ids"]
    conversation = [{"role": role, "content": content} for role, content in CHAT]
    assert own.encode_chat(CHAT) == loaded.apply_chat_template(
        conversation, add_generation_prompt=True, return_dict=False
    )


def test_truncation_and_padding_that_were_saved_with_it_do_not_count(base: HfTokenizer, tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
        fields["padding"] = {
            "strategy": {"Fixed": 1 << 40},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 258,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        }

    own = base.beside(edited(tmp_path, "tokenizer.json", change))
    assert own.encode("a long text") == base.encode("a long text")


def test_ends_of_a_text_are_its_own_and_those_of_the_model_that_are_spelled_alike(
    base: HfTokenizer, tmp_path: Path
) -> None:
    def turned(fields: dict[str, Any]) -> None:
        fields |= {"eos_token": "<pad>"}

    (pad,) = base.encode_more("<pad>")
    same = base.beside(brought(saved_tokenizer(tmp_path / "same")))
    other = base.beside(edited(tmp_path / "other", "tokenizer_config.json", turned))
    assert same.eos_ids == base.eos_ids
    assert other.eos_ids == {*base.eos_ids, pad}

    def respelled(fields: dict[str, Any]) -> None:
        vocabulary = fields["model"]["vocab"]
        one, another = min(base.eos_ids), 100
        spelled = {number: token for token, number in vocabulary.items()}
        vocabulary[spelled[one]], vocabulary[spelled[another]] = another, one

    assert base.beside(edited(tmp_path / "new", "tokenizer.json", respelled)).eos_ids == base.eos_ids - {
        min(base.eos_ids)
    }


def test_without_a_configuration_the_models_special_tokens_are_its_own(base: HfTokenizer, tmp_path: Path) -> None:
    own = base.beside(brought(saved_tokenizer(tmp_path), "tokenizer.json"))
    assert own.eos_ids == base.eos_ids


def test_a_template_alone_goes_with_the_models_tokens(base: HfTokenizer, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}mine: " + TEMPLATE)
    own = base.beside(brought(tmp_path))
    assert own.encode_chat(CHAT) == base.encode_more("<s>mine: [user]hi[assistant]yo>")
    assert own.encode("hi") == base.encode("hi")
    assert own.forms(131) is base.forms(131)


@pytest.mark.parametrize(
    "template",
    [
        {"chat_template": TEMPLATE},
        {"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": TEMPLATE}]},
    ],
)
def test_a_template_may_be_in_the_configuration(base: HfTokenizer, tmp_path: Path, template: dict[str, Any]) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(template))
    assert base.beside(brought(tmp_path)).encode_chat(CHAT) == base.encode_more("[user]hi[assistant]yo>")
    (tmp_path / "chat_template.jinja").write_text("jinja's")
    assert base.beside(brought(tmp_path)).encode_chat(CHAT) == base.encode_more("jinja's")


def test_a_configuration_without_a_template_leaves_the_models(base: HfTokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert base.beside(brought(tmp_path)).encode_chat(CHAT) == base.encode_chat(CHAT)


def test_an_own_tokenizer_without_a_template_has_none(base: HfTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="the adapter's tokenizer has no chat template"):
        base.beside(brought(saved_tokenizer(tmp_path))).encode_chat(CHAT)


def test_a_form_is_compiled_against_the_adapters_tokens(base: HfTokenizer, tmp_path: Path) -> None:
    own = base.beside(brought(saved_tokenizer(tmp_path)))
    guide = own.guide(Constraint(Form.REGEX, "ab"), 300)
    (letter,) = own.encode_more("a")
    mask = guide.allowed()
    assert [at for at in range(len(mask) * 8) if mask[at // 8] >> at % 8 & 1] == [letter]


def _code(fields: dict[str, Any]) -> None:
    fields["auto_map"] = {"AutoTokenizer": ["code.Tokenizer", None]}


def _unknown_token(fields: dict[str, Any]) -> None:
    fields |= {"eos_token": "<nowhere>"}


def _number(fields: dict[str, Any]) -> None:
    fields["bos_token"] = {"content": 7}


def _no_template(fields: dict[str, Any]) -> None:
    fields["chat_template"] = 7


def _long_template(fields: dict[str, Any]) -> None:
    fields["chat_template"] = "a" * (1 << 18)


def _token_of_nowhere(fields: dict[str, Any]) -> None:
    pieces = [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    fields["post_processor"] = {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": {}}


def _long_prefix(fields: dict[str, Any]) -> None:
    fields["model"] |= {"continuing_subword_prefix": "z" * 100, "merges": ["a b"]}


@pytest.mark.parametrize(
    ("name", "change", "error", "says"),
    [
        ("tokenizer_config.json", _code, UnsupportedAdapter, "auto_map names code"),
        ("tokenizer_config.json", _unknown_token, InvalidAdapter, "eos_token is '<nowhere>'"),
        ("tokenizer_config.json", _number, InvalidAdapter, "bos_token: expected a token"),
        ("tokenizer.json", lambda fields: fields["model"].pop("vocab"), InvalidAdapter, "tokenizer.json: "),
        ("tokenizer.json", lambda fields: fields.update(decoder={"type": "No"}), InvalidAdapter, "tokenizer.json: "),
        # Over these the library panics.
        ("tokenizer.json", _token_of_nowhere, InvalidAdapter, "no entry found for key"),
        ("tokenizer.json", _long_prefix, InvalidAdapter, "tokenizer.json: "),
    ],
)
def test_files_that_make_no_tokenizer_are_refused(
    base: HfTokenizer,
    tmp_path: Path,
    name: str,
    change: Change,
    error: type[LorryError],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        base.beside(edited(tmp_path, name, change))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (_no_template, InvalidAdapter, "expected a text, got int"),
        (_long_template, UnsupportedAdapter, "at most 131072"),
    ],
)
def test_what_is_no_template_is_refused(
    base: HfTokenizer, tmp_path: Path, change: Change, error: type[LorryError], says: str
) -> None:
    fields: dict[str, Any] = {}
    change(fields)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(error, match=says):
        base.beside(brought(tmp_path))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"decoder": 1e999}'])
def test_what_is_no_json_is_refused(base: HfTokenizer, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(InvalidAdapter, match="tokenizer"):
        base.beside(brought(tmp_path))


def _hangs(fields: dict[str, Any]) -> None:
    """`(a+)+$` on a row of a's takes longer than anybody waits."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    fields["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, fields["pre_tokenizer"]]}


def _doubles(fields: dict[str, Any]) -> None:
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    fields["normalizer"] = {"type": "Sequence", "normalizers": [double] * 60}


def _repeats(fields: dict[str, Any]) -> None:
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}] * 1000
    fields["post_processor"] = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": {}}


def _twice(fields: dict[str, Any]) -> None:
    """Short enough, and 2^6 times the text."""
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [piece, piece], "pair": [], "special_tokens": {}}
    fields["post_processor"] = {"type": "Sequence", "processors": [template] * 6}


def _drops(fields: dict[str, Any]) -> None:
    fields["model"]["dropout"] = 0.5


def _long_token(fields: dict[str, Any]) -> None:
    fields["model"]["vocab"]["a" * 2000] = 1000


def _another_model(fields: dict[str, Any]) -> None:
    vocabulary = fields["model"]["vocab"]
    fields["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_hangs, "no other way to cut"),
        (_doubles, "no other way to cut"),
        (_another_model, "no other way to cut"),
        (_repeats, "a post_processor of at most 4096 bytes"),
        (_twice, "with the text once, got 2 times"),
        (_drops, "expected no dropout"),
        (_long_token, "got one of 2000"),
    ],
)
def test_what_can_hang_or_grow_is_refused_before_it_sees_a_text(
    base: HfTokenizer, tmp_path: Path, change: Change, says: str
) -> None:
    with pytest.raises(UnsupportedAdapter, match=says):
        base.beside(edited(tmp_path, "tokenizer.json", change))


def test_ways_are_the_models_as_they_were_saved_or_as_they_were_loaded(tmp_path: Path) -> None:
    for folder in (tmp_path / "base", tmp_path / "own"):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(saved_tokenizer(folder))
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("-+"), "-")
        tokenizer.save_pretrained(folder)
    base = HfTokenizer.load(str(tmp_path / "base"), config_of("llama"))
    own = brought(tmp_path / "own")
    assert base.beside(own).encode("a---b") == base.encode("a-b")
    base._tokenizer.backend_tokenizer.normalizer = normalizers.NFC()  # as a class that builds its own does
    assert base.beside(own).encode("a---b") == base.encode("a-b")
