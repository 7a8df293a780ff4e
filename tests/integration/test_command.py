"""The installed `lorry` command against both services as processes: from a trained folder to a published mix."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lorry import WorkerClient, sync
from tests.support.pair import agrees, answer
from tests.support.peft_adapters import QUIET
from tests.support.process import ServerProcess
from tests.support.registry import registry_process
from tests.support.worker import tiny_adapter, tiny_llama, worker_process

pytestmark = QUIET

ADAPTERS: dict[str, dict[str, Any]] = {"pirate": {}, "json": {"dora": True}, "wide": {"rank": 33}}
PROMPT = "[user]hello[assistant]"
# `base register` loads torch and transformers: some seconds, on a machine with all cores taken many.
_COMMAND_SECONDS = 120.0


@dataclass(frozen=True)
class Terminal:
    """Both services, and a shell in front of them."""

    folder: Path
    registry: ServerProcess
    worker: ServerProcess

    def run(self, *arguments: str, code: int = 0, given: str = "") -> str:
        """What a command wrote to stdout; to stderr, where it is expected to fail."""
        where = ["--registry", self.registry.target, "--worker", self.worker.target]
        command = [str(Path(sys.executable).with_name("lorry")), *where, *arguments]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    def json(self, *arguments: str) -> Any:
        """The document that a command wrote."""
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("terminal")
    with (
        registry_process(folder / "registry") as registry,
        worker_process(folder / "worker", model, registry.target, pool_bytes=32 * 4364) as worker,
    ):
        terminal = Terminal(folder, registry, worker)
        terminal.run("base", "register", str(model), "--name", "tiny")
        with sync.RegistryClient(registry.target) as client:
            for seed, (name, options) in enumerate(ADAPTERS.items()):
                client.push(tiny_adapter(folder / name, seed, **options), name)
        yield terminal


def test_the_worker_serves_the_base_that_the_command_registered(terminal: Terminal) -> None:
    assert terminal.json("caps")["base_id"] == terminal.json("base", "show", "tiny")["base_id"]


async def test_a_mix_is_combined_published_pulled_and_loaded_by_peft(terminal: Terminal) -> None:
    terminal.run("push", str(tiny_adapter(terminal.folder / "polite", seed=7)), "polite")
    made = terminal.json(
        "combine", "pirate", "polite=-0.5", "--method", "linear", "--publish", "mix", "--alias", "prod"
    )
    assert [made["version"]["name"], made["version"]["number"]] == ["mix", 1]
    pulled = terminal.folder / "pulled"
    terminal.run("pull", "mix:prod", str(pulled))
    assert len(terminal.json("show", "mix")["version"]["manifest"]["parents"]) == 2

    said = terminal.run("generate", "hello", "-a", "mix:prod", "-n", "6")
    async with WorkerClient(terminal.worker.target) as client:
        served = await answer(client, PROMPT, adapters="mix")
        text = await client.generate(PROMPT, adapters="mix", max_new_tokens=6).text()
    assert agrees(served, tiny_llama(), [pulled], [ord(character) + 3 for character in PROMPT])
    assert said == f"{text}\n"


def test_a_route_is_switched_listed_and_used(terminal: Terminal) -> None:
    switched = terminal.json("switch", "pirate=0.5", "--route", "tour", "--expect", "0")
    assert terminal.json("route", "ls")[-1] == switched
    by_route = terminal.run("generate", "hello", "--route", "tour", "-n", "4")
    assert terminal.run("generate", "hello", "-a", "pirate=0.5", "-n", "4") == by_route
    assert "REVISION_CONFLICT" in terminal.run("switch", "--route", "tour", "--expect", "0", code=4)
    assert "ADAPTER_IN_USE" in terminal.run("unload", "pirate", code=6)


def test_a_conversation_goes_on_past_a_refusal(terminal: Terminal) -> None:
    lines = "hello\n/adapter nobody\nhello\n/adapter json\nhello\n"
    said = terminal.run("chat", "--base-only", "-n", "3", "--json", given=lines)
    starts = [entry["started"]["adapters"] for entry in map(json.loads, said.splitlines()) if "started" in entry]
    assert [[each["adapter"] for each in adapters] for adapters in starts] == [[], ["json"]]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("generate", "x", "-a", "json", "-a", "pirate"), 2, "INVALID_SELECTION"),
        (("generate", "x", "--route", "nowhere"), 3, "ROUTE_NOT_FOUND"),
        (("combine", "json", "pirate", "--method", "cat"), 6, "UNSUPPORTED_COMBINATION"),
        (("load", "wide"), 7, "REQUEST_TOO_LARGE"),
        (("--worker", "127.0.0.1:1", "caps"), 5, "UNAVAILABLE"),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(
    terminal: Terminal, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    said = terminal.run(*arguments, code=code)
    assert said.startswith(f"error: {reason}: ")
    assert said.count("\n") == 1
