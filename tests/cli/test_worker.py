"""The commands that talk to a worker, against a real one over a tiny random model."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lorry import sync
from tests.cli.conftest import Lorry, Result
from tests.support.blocking import blocking
from tests.support.worker import MODEL_NAME, running_worker, save_model, tiny_adapter, tiny_base

NAMES = ("pirate", "json", "spare")


@pytest.fixture(scope="module")
def worker(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker whose registry has some adapters of its base."""
    folder = tmp_path_factory.mktemp("worker")
    with sync.RegistryClient(address) as registry:
        registry.register_base_model(MODEL_NAME, tiny_base())
        for seed, name in enumerate(NAMES):
            registry.push(tiny_adapter(folder / name, seed), name, base=MODEL_NAME)
    with blocking(running_worker(folder / "cache", save_model(folder / "model"), address)) as serving:
        yield serving.target


@pytest.fixture
def lorry(lorry: Lorry, worker: str, monkeypatch: pytest.MonkeyPatch) -> Lorry:
    monkeypatch.setenv("LORRY_WORKER", worker)
    return lorry


def stream(result: Result) -> list[dict[str, Any]]:
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def text(messages: list[dict[str, Any]]) -> str:
    return "".join(message["delta"]["text"] for message in messages if "delta" in message)


def test_generate_streams_the_text_alone_to_a_pipe(lorry: Lorry) -> None:
    options = ("generate", "hello", "-a", "pirate", "-n", "5")
    messages = stream(lorry(*options, "--json"))
    plain = lorry(*options)
    assert (plain.code, plain.err) == (0, "")
    assert plain.out == text(messages) + "\n"


def test_generate_says_in_json_what_served_and_why_it_ended(lorry: Lorry) -> None:
    first, *_, last = stream(lorry("generate", "hello", "-a", "pirate", "-a", "json=0.5", "-n", "3", "--json"))
    assert [(a["adapter"], a["weight"]) for a in first["started"]["adapters"]] == [("pirate", 1), ("json", 0.5)]
    assert last["finished"]["completion_tokens"] <= 3


def test_whose_turn_it_is_can_be_said(lorry: Lorry) -> None:
    turn = ("--tenant", "team", "--priority", "-3", "--begin-within", "30")
    for cached in (0, 16):
        *_, last = stream(
            lorry("generate", "a text of thirty tokens or so.", "--raw", "--base-only", *turn, "-n", "1", "--json")
        )
        assert last["finished"]["cached_tokens"] == cached
    assert lorry("generate", "hello", "--priority", "11").code == 2


def test_a_seed_repeats_the_draw(lorry: Lorry) -> None:
    draw = ("generate", "hello", "--raw", "--base-only", "-t", "1.5", "-n", "8", "--seed")
    assert lorry(*draw, "7").out == lorry(*draw, "7").out
    assert lorry(*draw, "7").out != lorry(*draw, "8").out


def test_a_prompt_is_read_from_standard_input(lorry: Lorry, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = lorry("generate", "hello there", "--raw", "-n", "5", "--base-only").out
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello there"))
    assert lorry("generate", "-", "--raw", "-n", "5", "--base-only").out == expected


def test_an_adapter_that_is_not_there_is_told(lorry: Lorry) -> None:
    refused = lorry("generate", "hello", "-a", "nobody")
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith("error: ADAPTER_NOT_FOUND: ")


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "hello", "--base-only", "--regex", r"\x1b\]0;PWNED\x07\x1b\[2J\nok", "-n", "40"),
        ("chat", "--base-only", "-n", "40", "-t", "5", "--seed", "1"),
        ("interpolate", "pirate", "json", "--prompt", "hello", "-n", "40", "-t", "5", "--seed", "1"),
    ],
)
def test_what_a_model_says_drives_no_terminal_and_goes_to_a_pipe_as_it_is(
    address: str, worker: str, command: tuple[str, ...]
) -> None:
    started = partial(
        subprocess.Popen,
        [Path(sys.executable).with_name("lorry"), "--registry", address, "--worker", worker, *command],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with started(stdout=subprocess.PIPE) as piped:
        told = piped.communicate(b"hello\n")[0].decode()
    leader, follower = pty.openpty()
    with started(stdout=follower) as shown:
        os.close(follower)
        shown.communicate(b"hello\n")
    seen = os.read(leader, 1 << 16).decode().replace("\r\n", "\n")
    os.close(leader)
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f]", told)
    assert seen == re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "?", told)


def test_switch_changes_what_callers_get_who_name_nothing(lorry: Lorry) -> None:
    switched = lorry("switch", "pirate", "json=0.5", "--route", "tour", "--expect", "0")
    assert switched.out == "tour -> pirate + 0.5 json  (revision 1)\n"
    assert lorry("switch", "--route", "tour", "--expect", "0").code == 4
    assert "pirate + 0.5 json" in lorry("route", "ls").out
    started = stream(lorry("generate", "hello", "--route", "tour", "-n", "1", "--json"))[0]["started"]
    assert (started["route"], len(started["adapters"])) == ("tour", 2)


def test_combine_publishes_with_its_lineage(lorry: Lorry) -> None:
    made = lorry("combine", "pirate", "json=0.5", "--method", "ties", "--density", "0.5", "--publish", "mixed/ties")
    assert made.code == 0, made.err
    assert "published mixed/ties@1  sha256:" in made.out
    assert "ties of 2" in lorry("ls", "mixed/ties").out
    assert '"density":0.5' in lorry("show", "mixed/ties").out
    assert lorry("generate", "hello", "-a", "mixed/ties", "-n", "2").code == 0


def test_a_combination_that_stays_is_known_by_its_recipe(lorry: Lorry) -> None:
    made = lorry("combine", "pirate", "json", "--method", "cat", "--json").json
    again = lorry("combine", "pirate", "json", "--method", "cat", "--json").json
    assert (again["existed"], again["adapter"]) == (True, made["adapter"])
    assert lorry("generate", "hello", "-a", made["adapter"], "-n", "2").code == 0


def test_a_recipe_is_written_down_and_followed(lorry: Lorry, tmp_path: Path) -> None:
    options = ("--method", "dare_ties_svd", "--density", "0.5", "--seed", "7", "--rank", "1")
    made = lorry("combine", "pirate", "json=-0.5", *options, "--publish", "mixed/again", "--json").json
    written = lorry("combine", "--recipe", "mixed/again")
    assert written.code == 0, written.err
    assert "method: dare_ties_svd" in written.out
    file = tmp_path / "mix.yaml"
    file.write_text(written.out)
    again = lorry("combine", "--from", str(file), "--publish", "mixed/again", "--json").json
    assert (again["existed"], again["recipe_digest"]) == (True, made["recipe_digest"])
    assert again["version"] == made["version"]
    assert lorry("combine", "--recipe", "mixed/again", "--json").json["parameters"]["seed"] == 7
    assert lorry("combine", "--recipe", "pirate").code == 2
    file.write_text("{")
    assert lorry("combine", "--from", str(file)).err.startswith("error: INVALID_COMBINATION: ")


def test_a_dry_run_shows_what_a_method_costs(lorry: Lorry) -> None:
    shown = lorry("combine", "pirate", "json=0.25", "--dry-run")
    assert shown.code == 0, shown.err
    assert "off the exact sum" in shown.out
    tried = lorry("combine", "pirate", "json=0.25", "--dry-run", "--json").json
    assert 0 < tried["dry_run"]["relative_error"] <= tried["dry_run"]["worst_relative_error"]
    assert tried["recipe_digest"] not in lorry("ps", "--json").out


def test_load_ps_pin_and_unload(lorry: Lorry) -> None:
    assert "pool" in lorry("load", "spare").out
    assert "spare" in lorry("ps").out
    assert "pinned" in lorry("pin", "spare", "--ttl", "600").out
    assert lorry("unload", "spare").code == 6
    assert lorry("pin", "spare", "--off").code == 0
    assert lorry("unload", "spare").out.startswith("unloaded sha256:")


def test_load_ahead_of_time(lorry: Lorry) -> None:
    lorry("unload", "spare")
    assert "disk" in lorry("load", "spare", "--tier", "disk").out
    assert lorry("load", "spare", "--tier", "host", "--json").json["tier"] == "TIER_HOST"
    assert "pool" in lorry("load", "spare").out
    assert lorry("load", "spare", "--tier", "cloud").code == 2


def test_caps_tells_base_and_budgets(lorry: Lorry) -> None:
    shown = lorry("caps").out
    for part in (MODEL_NAME, "ties", "pool_rows", "kv_tokens"):
        assert part in shown
    assert lorry("caps", "--json").json["base_id"] == tiny_base().base_id


class TestChat:
    @pytest.fixture
    def talk(self, lorry: Lorry, monkeypatch: pytest.MonkeyPatch) -> Any:
        def talk(*lines: str, options: tuple[str, ...] = ()) -> Result:
            monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
            return lorry("chat", "-n", "4", *options)

        return talk

    def test_every_turn_sees_the_ones_before(self, talk: Any) -> None:
        turns = stream(talk("hello", "and now", options=("--json", "--base-only")))
        lengths = [message["started"]["prompt_tokens"] for message in turns if "started" in message]
        said = len("[user]hello") + len("[assistant]")
        assert lengths[0] == said
        assert lengths[1] > said + len("[user]and now[assistant]")

    def test_the_adapters_change_in_mid_conversation(self, talk: Any) -> None:
        lines = ("hello", "/adapter pirate json=0.5", "hello", "/adapter", "hello", "/exit", "never")
        turns = stream(talk(*lines, options=("--json", "-a", "json")))
        starts = [message["started"]["adapters"] for message in turns if "started" in message]
        assert [[a["adapter"] for a in adapters] for adapters in starts] == [["json"], ["pirate", "json"], []]

    @pytest.mark.parametrize(("options", "second"), [((), "pirate"), (("--follow",), "json")])
    def test_the_conversation_keeps_its_adapters_unless_it_follows(
        self, worker: str, lorry: Lorry, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], second: str
    ) -> None:
        class Moving(io.StringIO):
            """Standard input that moves the route before each line is read."""

            def readline(self, *_: Any) -> str:
                with sync.WorkerClient(worker) as client:
                    client.switch(next(adapters), route="moving")
                return super().readline()

        adapters = iter(("pirate", "json", "spare"))
        monkeypatch.setattr(sys, "stdin", Moving("hello\nhello\n"))
        turns = stream(lorry("chat", "-n", "2", "--json", "--route", "moving", *options))
        starts = [message["started"]["adapters"] for message in turns if "started" in message]
        assert [adapter["adapter"] for (adapter,) in starts] == ["pirate", second]

    def test_a_refusal_ends_the_turn_and_not_the_conversation(self, talk: Any) -> None:
        result = talk("/adapter nobody", "hello", "/adapter", "hello")
        assert result.code == 0
        assert result.err.startswith("error: ADAPTER_NOT_FOUND: ")
        assert result.out.count("\n") == 1

    def test_adapters_that_are_no_selection_leave_those_that_were_chosen(self, talk: Any) -> None:
        result = talk("/adapter pirate=abc", "hello", options=("--json", "-a", "json"))
        assert result.err.startswith("error: INVALID_SELECTION: ")
        assert [adapter["adapter"] for adapter in stream(result)[0]["started"]["adapters"]] == ["json"]


def test_pulled_folders_of_adapters_are_peft_folders(lorry: Lorry, tmp_path: Path) -> None:
    assert lorry("pull", "pirate", str(tmp_path / "out")).code == 0
    assert (tmp_path / "out" / "adapter_config.json").exists()
