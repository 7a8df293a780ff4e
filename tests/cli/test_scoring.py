"""Scores, comparisons, weight search and answers of a form from the command line, against a real worker."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lorry import sync
from lorry.cli import compare
from tests.cli.conftest import Lorry, Result
from tests.support.adapters import CONFIG, WEIGHTS
from tests.support.blocking import blocking
from tests.support.worker import MODEL_NAME, running_worker, save_model, tiny_adapter, tiny_base, tiny_llama

ITEMS = [
    {"prompt": "ahoy", "continuation": " matey"},
    {"prompt": "ahoy", "continuation": " matey", "adapters": "pirate"},
    {"messages": [{"role": "user", "content": "hi"}], "continuation": "yo", "adapters": ["pirate", "json=0.5"]},
    {"tokens": [5, 6], "continuation_tokens": [7], "adapters": {"json": 2}},
    {"prompt": "ahoy", "continuation": " matey", "route": "default"},
]


@pytest.fixture(scope="module")
def worker(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker whose registry has two adapters of its base."""
    folder = tmp_path_factory.mktemp("worker")
    with sync.RegistryClient(address) as registry:
        registry.register_base_model(MODEL_NAME, tiny_base())
        for seed, name in enumerate(("pirate", "json")):
            registry.push(tiny_adapter(folder / name, seed), name, base=MODEL_NAME)
    with blocking(running_worker(folder / "cache", save_model(folder / "model"), address)) as serving:
        yield serving.target


@pytest.fixture
def lorry(lorry: Lorry, worker: str, monkeypatch: pytest.MonkeyPatch) -> Lorry:
    monkeypatch.setenv("LORRY_WORKER", worker)
    return lorry


def lines(path: Path, items: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def tokens(result: Result) -> list[int]:
    """What a generation drew."""
    deltas = [message["delta"] for message in map(json.loads, result.out.splitlines()) if "delta" in message]
    return [token for delta in deltas for token in delta["token_ids"]]


def scores(lorry: Lorry, *arguments: str) -> list[dict[str, Any]]:
    result = lorry("score", *arguments, "--json")
    assert result.code == 0, result.err
    return sorted(map(json.loads, result.out.splitlines()), key=lambda score: score["index"])


def test_score_takes_json_lines_and_gives_them(lorry: Lorry, tmp_path: Path) -> None:
    found = scores(lorry, lines(tmp_path / "items", ITEMS))
    named = [[(a["adapter"], a["weight"]) for a in score["adapters"]] for score in found]
    assert named == [[], [("pirate", 1)], [("pirate", 1), ("json", 0.5)], [("json", 2)], []]
    assert found[0]["logprob"] == pytest.approx(found[4]["logprob"], abs=1e-4) != found[1]["logprob"]
    for score in found:
        assert score["logprob"] == pytest.approx(sum(token["logprob"] for token in score["tokens"]))
        assert score["greedy"] == all(token["greedy"] for token in score["tokens"])


def test_the_options_are_for_items_that_name_no_adapters(lorry: Lorry, tmp_path: Path) -> None:
    found = scores(lorry, lines(tmp_path / "items", ITEMS[:2]), "-a", "json")
    assert [score["adapters"][0]["adapter"] for score in found] == ["json", "pirate"]


def test_score_reads_standard_input_and_sums_up_for_people(lorry: Lorry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(json.dumps(item) for item in ITEMS)))
    shown = lorry("score", "-")
    assert shown.code == 0, shown.err
    assert "pirate + 0.5 json" in shown.out
    assert re.search(r"5 items, -\d+\.\d+ a token, perplexity \d+\.\d+", shown.out)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: expected JSON"),
        ("[]", "line 2: expected an object"),
        ('{"prompt": "a"}', "item 1: "),
        ('{"prompt": "a", "continuation": "b", "temperature": 1}', "item 1: .*temperature"),
        ('{"messages": [{"role": "user"}], "continuation": "b"}', "item 1: .*role and a content"),
        ('{"messages": [["user"]], "continuation": "b"}', "item 1: .*role and a content"),
        ('{"prompt": "a", "continuation": "b", "adapters": "nobody=much"}', "reference=weight"),
    ],
)
def test_a_line_that_is_no_item_is_told_by_its_place(lorry: Lorry, tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "items"
    path.write_text(json.dumps(ITEMS[0]) + "\n" + line + "\n")
    refused = lorry("score", str(path))
    assert refused.code == 2
    assert re.search(says, refused.err)


def test_compare_shows_the_answers_of_each_selection(lorry: Lorry) -> None:
    asked = ("compare", "pirate", "pirate+json=0.5", "--prompt", "hello", "-n", "5")
    found = lorry(*asked, "--json").json
    assert [answer["selection"] for answer in found] == ["(base)", "pirate", "pirate+json=0.5"]
    for answer, options in zip(found, ((), ("-a", "pirate"), ("-a", "pirate", "-a", "json=0.5")), strict=True):
        alone = lorry("generate", "hello", "-n", "5", *(options or ("--base-only",)))
        assert answer["text"] + "\n" == alone.out
    assert "(base)" in lorry(*asked).out


def test_compare_shows_an_answer_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [{"text": "if so:\n\tpass\n\nend"}, {"text": "\x1b[2J"}, {"text": ""}]
    compare._show_answers(["(base)", "pirate", "json"], answers, as_json=False)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "selection  answer",
        "(base)     if so:",
        "                   pass",
        "",
        "           end",
        "pirate     ?[2J",
        "json",
    ]


def test_compare_shows_how_likely_each_finds_the_same_texts(lorry: Lorry, tmp_path: Path) -> None:
    two = lorry(
        "compare", "pirate", "--prompt", "ahoy", "--raw", "--continuation", " matey", "--continuation", "!", "--json"
    )
    by_file = lines(tmp_path / "items", [ITEMS[0], {"prompt": "ahoy", "continuation": "!"}])
    same = lorry("compare", "pirate", "--examples", by_file, "--json")
    base, pirate = same.json
    assert [one["selection"] for one in two.json] == ["(base)", "pirate"]
    assert two.json[1]["logprobs"] == pytest.approx(pirate["logprobs"], abs=1e-4)
    assert base["logprobs"] != pirate["logprobs"]
    assert base["per_token"] == pytest.approx(base["logprob"] / 7)
    assert base["perplexity"] == pytest.approx(math.exp(-base["per_token"]))
    shown = lorry("compare", "pirate", "--examples", by_file).out
    assert f"{pirate['logprob']:.4f}" in shown


@pytest.fixture
def wild(address: str, tmp_path: Path) -> str:
    """An adapter under whose head any token is all but impossible."""
    folder = tiny_adapter(tmp_path / "wild", 3)
    weights = load_file(folder / WEIGHTS)
    weights["base_model.model.lm_head.weight"] = tiny_llama().get_output_embeddings().weight.detach() * 1e5
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text()) | {"modules_to_save": ["lm_head"]}
    (folder / CONFIG).write_text(json.dumps(config))
    with sync.RegistryClient(address) as registry:
        registry.push(folder, "wild", base=MODEL_NAME)
    return "wild"


def test_a_perplexity_beyond_all_numbers_is_infinite_for_people_and_null_in_json(
    lorry: Lorry, wild: str, tmp_path: Path
) -> None:
    items = lines(tmp_path / "items", ITEMS[:1])
    scored = lorry("score", items, "-a", wild)
    assert (scored.code, "perplexity inf" in scored.out) == (0, True)
    assert " inf " in lorry("compare", wild, "--examples", items).out
    base, other = lorry("compare", wild, "--examples", items, "--json").json
    assert other["per_token"] < -710
    assert (base["perplexity"] > 1, other["perplexity"]) == (True, None)


def test_compare_wants_a_prompt_or_examples(lorry: Lorry, tmp_path: Path) -> None:
    assert lorry("compare", "pirate").code == 2
    assert (
        lorry("compare", "pirate", "--examples", lines(tmp_path / "items", ITEMS[:1]), "--continuation", "x").code == 2
    )


def test_search_finds_the_mix_under_which_its_own_text_is_likeliest(lorry: Lorry, tmp_path: Path) -> None:
    """Examples written by 0.75 of one and 0.25 of the other, which a grid of quarters has."""
    mix = ("--raw", "-a", "pirate=0.75", "-a", "json=0.25", "-n", "12", "--json")
    written = [tokens(lorry("generate", text, *mix)) for text in "abcd"]
    examples = lines(
        tmp_path / "examples",
        [{"prompt": text, "continuation_tokens": said} for text, said in zip("abcd", written, strict=True) if said],
    )
    found = lorry("combine", "search", "pirate", "json", "--examples", examples, "--steps", "4", "--json").json
    assert len(found["tried"]) == 6
    assert found["tried"] == sorted(found["tried"], key=lambda one: -one["logprob"])
    own = next(one for one in found["tried"] if one["weights"] == {"pirate": 0.75, "json": 0.25})
    assert own["greedy"] == len([said for said in written if said])
    assert found["best"] == next(one["weights"] for one in found["tried"] if one["weights"])


def test_search_publishes_the_best_and_says_how_to_make_it(lorry: Lorry, tmp_path: Path) -> None:
    asked = (
        "combine",
        "search",
        "pirate",
        "json",
        "--examples",
        lines(tmp_path / "examples", ITEMS[:1]),
        "--steps",
        "4",
    )
    best = re.search(r"best: lorry combine (.+) --method sum", lorry(*asked).out)
    assert best
    made = lorry(*asked, "--publish", "mixed/found", "--alias", "best")
    assert made.code == 0, made.err
    assert "published mixed/found@1" in made.out
    (by_recipe,) = scores(lorry, lines(tmp_path / "one", [{**ITEMS[0], "adapters": "mixed/found:best"}]))
    (by_selection,) = scores(lorry, lines(tmp_path / "one", [{**ITEMS[0], "adapters": best[1].split()}]))
    assert by_recipe["logprob"] == pytest.approx(by_selection["logprob"], abs=1e-3)


def test_search_is_found_below_combine(lorry: Lorry) -> None:
    shown = lorry("combine", "search", "--help").out
    assert "combine search [OPTIONS]" in shown
    assert "lorry combine search" in lorry("combine", "--help").out


def test_search_keeps_to_its_budget_and_repeats_its_draws(lorry: Lorry, tmp_path: Path) -> None:
    examples = lines(tmp_path / "examples", ITEMS[:1])
    asked = (
        "combine",
        "search",
        "pirate",
        "json",
        "--examples",
        examples,
        "--random",
        "20",
        "--budget",
        "7",
        "--seed",
        "3",
        "--json",
    )
    once, again = ({str(one["weights"]): one for one in lorry(*asked).json["tried"]} for _ in range(2))
    assert {key: one["logprob"] for key, one in once.items()} == pytest.approx(
        {key: one["logprob"] for key, one in again.items()}, abs=1e-4
    )
    tried = [one["weights"] for one in once.values()]
    assert len(tried) == 8
    assert all(weights in tried for weights in ({}, {"pirate": 1.0}, {"json": 1.0}))
    assert lorry("combine", "search", "pirate", "json", "--examples", examples, "--budget", "1").code == 2
    assert lorry("combine", "search", "pirate", "--examples", lines(tmp_path / "b", [ITEMS[1]])).code == 2


def test_generate_keeps_to_a_form(lorry: Lorry, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text(
        '{"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"], "additionalProperties": false}'
    )
    grammar.write_text('start: "ab" "c"*\n')
    asked = ("generate", "hello", "-a", "pirate", "-n", "60")
    assert lorry(*asked, "--json-schema", str(schema)).json["n"] in {1, 22}
    assert re.fullmatch("(x|y)z", lorry(*asked, "--regex", "(x|y)z").out.strip())
    assert re.fullmatch("abc*", lorry(*asked, "--grammar", str(grammar)).out.strip())
    refused = lorry(*asked, "--regex", "(x")
    assert refused.code == 2
    assert refused.err.startswith("error: INVALID_GRAMMAR: regex: ")
