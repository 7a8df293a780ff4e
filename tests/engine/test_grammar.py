"""Forms of answers: what may come next, where a text ends, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from llguidance import LLParserLimits

from compute_worker.contract import Sampling, StepRow
from compute_worker.engine.grammar import Forms
from compute_worker.engine.sampler import draw
from compute_worker.engine.tokenizer import HfTokenizer
from compute_worker.engine.trial import Trials
from compute_worker.wording import Constraint, Form, Guide
from lorry.errors import InvalidGrammar, UnsupportedModel
from tests.support.models import config_of
from tests.support.tokenizers import VOCABULARY, saved_tokenizer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CALC = """
start: sum
sum: NUMBER | sum "+" NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,3}/
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HfTokenizer:
    config = config_of("llama")
    config.vocab_size = VOCABULARY
    return HfTokenizer.load(str(saved_tokenizer(tmp_path_factory.mktemp("tokenizer"))), config)


def allowed(guide: Guide) -> set[int]:
    bits = guide.allowed()
    return {token for token in range(len(bits) * 8) if bits[token // 8] >> token % 8 & 1}


def test_only_what_goes_on_with_the_form_is_allowed(tokenizer: HfTokenizer) -> None:
    guide = tokenizer.guide(Constraint(Form.REGEX, "[ab]{2,3}"))
    letters = set(tokenizer.encode_more("ab"))
    assert allowed(guide) == letters
    guide.take(min(letters))
    assert allowed(guide) == letters
    guide.take(max(letters))
    assert allowed(guide) == letters | set(tokenizer.eos_ids)
    assert not guide.ended
    guide.take(min(letters))
    assert guide.ended
    assert guide.failed == ""


def test_a_text_that_may_end_ends_with_any_end_token(tokenizer: HfTokenizer) -> None:
    for token in tokenizer.eos_ids:
        guide = tokenizer.guide(Constraint(Form.REGEX, "a*"))
        guide.take(token)
        assert guide.ended
        assert guide.failed == ""


def test_guides_of_one_form_go_their_own_ways(tokenizer: HfTokenizer) -> None:
    form = Constraint(Form.REGEX, "ab|cd")
    (a, b), (c, d) = tokenizer.encode_more("ab"), tokenizer.encode_more("cd")
    one, other = tokenizer.guide(form), tokenizer.guide(form)
    one.take(a)
    other.take(c)
    assert (allowed(one), allowed(other)) == ({b}, {d})


def written(tokenizer: HfTokenizer, constraint: Constraint, seed: int) -> str:
    """A text of random draws of the sampler, up to its end."""
    guide, tokens = tokenizer.guide(constraint), []
    generator = torch.Generator().manual_seed(seed)
    while not guide.ended and len(tokens) < 200:
        sampling = Sampling(temperature=1.0, seed=seed, top_k=50)
        row = StepRow([0], 0, [0], (), sampling, [0], len(tokens), allowed=guide.allowed())
        (drawn,) = draw(torch.randn(1, VOCABULARY, generator=generator), [row])
        guide.take(drawn.token)
        # The model's end token is a letter of this tokenizer; it ends the text all the same.
        tokens += [drawn.token] if drawn.token not in tokenizer.eos_ids else []
    assert guide.ended
    return tokenizer.decode(tokens)


def test_every_text_is_of_its_form(tokenizer: HfTokenizer) -> None:
    for seed in range(12):
        assert re.fullmatch("(yes|no)( !){1,3}", written(tokenizer, Constraint(Form.REGEX, "(yes|no)( !){1,3}"), seed))
        person = json.loads(written(tokenizer, Constraint(Form.JSON_SCHEMA, json.dumps(PERSON)), seed))
        assert person.keys() == {"name", "age"}
        assert len(person["name"]) <= 6
        assert 0 <= person["age"] <= 99


def test_a_grammar_may_call_itself(tokenizer: HfTokenizer) -> None:
    guide = tokenizer.guide(Constraint(Form.GRAMMAR, CALC))
    for token in tokenizer.encode_more("((1+22)+3)"):
        assert token in allowed(guide)
        guide.take(token)
    assert guide.failed == ""
    guide.take(tokenizer.encode_more("x")[0])
    assert guide.failed


@pytest.mark.parametrize(
    ("grammar", "says"),
    [('start: "a" end\nend: end "b"', "no token goes on"), ('start: x\nx: "a" | x x', "max is 20")],
)
def test_a_form_that_leads_nowhere_or_everywhere_fails_in_its_midst(
    tokenizer: HfTokenizer, monkeypatch: pytest.MonkeyPatch, grammar: str, says: str
) -> None:
    monkeypatch.setattr("compute_worker.engine.trial.LIMITS", LLParserLimits(max_items_in_row=20))
    guide = Forms(tokenizer._tokenizer, tokenizer.vocab_size, tokenizer.eos_ids, Trials()).guide(
        Constraint(Form.GRAMMAR, grammar)
    )
    (letter,) = tokenizer.encode_more("a")
    for _ in range(60):
        assert re.search(says, guide.failed) or not guide.failed
        guide.allowed()
        if guide.failed:
            break
        guide.take(letter)
    assert re.search(says, guide.failed)


def test_a_failed_guide_allows_everything_and_says_why(tokenizer: HfTokenizer) -> None:
    guide = tokenizer.guide(Constraint(Form.REGEX, "a"))
    guide.take(tokenizer.encode_more("b")[0])
    assert guide.failed
    assert allowed(guide) >= set(range(VOCABULARY))


@pytest.mark.parametrize(
    ("form", "text", "says"),
    [
        (Form.REGEX, "[ab", "regex: "),
        (Form.REGEX, "a(?=b)", "regex: "),
        (Form.GRAMMAR, 'start: "a"\nother: (\n', "grammar: (?s:.*)2"),
        (Form.GRAMMAR, "start: nobody", "grammar: (?s:.*)nobody"),
        (Form.JSON_SCHEMA, "{", "json_schema: "),
        (Form.JSON_SCHEMA, '{"type": "objekt"}', "json_schema: (?s:.*)objekt"),
        (Form.JSON_SCHEMA, '{"$ref": "http://elsewhere/schema"}', "json_schema: "),
        (Form.JSON_SCHEMA, '{"not": {"type": "string"}}', "json_schema: .*not"),
        (Form.GRAMMAR, 'start: start "a"', "grammar: no token"),
        (Form.GRAMMAR, "start: " + "(" * 9999 + '"a"' + ")" * 9999, "grammar: (?s:.*)nested"),
    ],
)
def test_what_is_no_form_is_refused_with_the_place(tokenizer: HfTokenizer, form: Form, text: str, says: str) -> None:
    with pytest.raises(InvalidGrammar, match=says):
        tokenizer.guide(Constraint(form, text))


def test_a_form_is_compiled_once_and_the_oldest_are_forgotten(
    tokenizer: HfTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compute_worker.engine.grammar._KEPT", 2)
    forms = tokenizer.forms(tokenizer.vocab_size)
    forms._compiled.clear()
    kept = [Constraint(Form.REGEX, letter) for letter in "abc"]
    forms.guide(kept[0])
    compiled = forms._compiled[kept[0]]
    forms.guide(kept[1])
    forms.guide(kept[0])
    forms.guide(kept[2])
    assert list(forms._compiled) == [kept[0], kept[2]]
    assert forms._compiled[kept[0]] is compiled


def test_a_form_that_takes_too_much_to_be_compiled_is_given_up_and_remembered(tokenizer: HfTokenizer) -> None:
    pieces = [f"/(?s:.)*[a-m](?s:.){{{width}}}[n-z](?s:.)*/" for width in range(1, 28)]
    constraint = Constraint(Form.GRAMMAR, "start: A\nA: " + " & ".join(pieces))
    forms = Forms(tokenizer._tokenizer, tokenizer.vocab_size, tokenizer.eos_ids, Trials(seconds=0))

    with pytest.raises(InvalidGrammar, match="was given up, it may take 0 seconds and 512 MB"):
        forms.guide(constraint)
    with pytest.raises(InvalidGrammar, match="was given up"):
        forms.ready(constraint)
    assert forms.guide(Constraint(Form.REGEX, "a")).failed == ""


def test_what_was_compiled_is_there_while_something_else_is_being_compiled(tokenizer: HfTokenizer) -> None:
    forms = Forms(tokenizer._tokenizer, tokenizer.vocab_size, tokenizer.eos_ids, Trials())
    known, other = Constraint(Form.REGEX, "a"), Constraint(Form.REGEX, "b")
    forms.guide(known)
    with forms._compiling:
        ready = forms.ready(known)
        assert ready is not None
        assert ready.allowed() == forms.ready(known).allowed()  # type: ignore[union-attr] # as before
        assert forms.ready(other) is None


def test_a_tokenizer_that_does_not_tell_its_bytes_has_no_forms(tmp_path: Path) -> None:
    folder = saved_tokenizer(tmp_path)
    written = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**written, "decoder": {"type": "Fuse"}}))
    tokenizer = HfTokenizer.load(str(folder), config_of("llama"))
    with pytest.raises(UnsupportedModel, match="bytes of its tokens"):
        Forms(tokenizer._tokenizer, 300, [0], Trials()).guide(Constraint(Form.REGEX, "a"))


def test_a_mask_changes_no_neighbours_draw_and_no_log_probability() -> None:
    logits = torch.randn(4, 70, generator=torch.Generator().manual_seed(1))
    only_nine = (1 << 9).to_bytes(9, "little")
    rows = [
        StepRow([0], 0, [0], (), sampling, [0, 3], 2, allowed=mask)
        for mask in (None, only_nine)
        for sampling in (Sampling(), Sampling(temperature=0.7, seed=5, repetition_penalty=1.5, logprobs=3))
    ]

    free, sampled, forced, forced_sampled = draw(logits[[0, 1, 0, 1]], rows)

    assert free.token == int(logits[0].argmax())
    assert sampled == draw(logits[[1]], [rows[1]])[0]
    assert (forced.token, forced_sampled.token) == (9, 9)
    assert forced_sampled.logprob == pytest.approx(float(logits[1].log_softmax(0)[9]), abs=1e-5)
    assert forced_sampled.top == sampled.top


def test_a_row_of_nan_draws_what_its_form_allows() -> None:
    for temperature in (0.0, 1.0):
        row = StepRow([0], 0, [0], (), Sampling(temperature=temperature), [0], 0, allowed=bytes([0, 0b1000]))
        assert draw(torch.full((1, 16), float("nan")), [row])[0].token == 11
