from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compute_worker.engine.loading import load_base
from lorry.fingerprint import base_facts
from tests.cli.conftest import Lorry
from tests.support.adapters import BASE_NAME, base_for
from tests.support.models import saved_model, tiny_model
from tests.support.quantised import saved_gguf


def test_a_base_is_registered_from_its_folder(lorry: Lorry, tmp_path: Path) -> None:
    folder = saved_model("llama", tmp_path / "llama")
    family = ("--derived-from", BASE_NAME, "--carry-over", "warn")
    capture = lorry(
        "base", "register", str(folder), "--name", "tiny-llama", "--known-as", "org/llama", *family, "--json"
    )
    assert capture.code == 0, capture.err
    facts = base_facts(tiny_model("llama"))
    assert (capture.json["base_id"], capture.json["known_as"]) == (facts.base_id, ["org/llama"])
    assert (capture.json["derived_from"], capture.json["carry_over"]) == (base_for().base_id, "CARRY_OVER_WARN")
    assert len(capture.json["modules"]) == len(facts.modules)
    assert lorry("base", "show", "org/llama").code == 0


def test_a_gguf_file_is_registered_as_the_plain_weights_that_it_unpacks_to(lorry: Lorry, tmp_path: Path) -> None:
    file = saved_gguf(tmp_path / "tiny.gguf")
    load_base(str(file), "cpu", "float32").save_pretrained(tmp_path / "folder")

    of_file = lorry("base", "register", str(file), "--name", "tiny-gguf", "--json").json
    of_folder = lorry("base", "register", str(tmp_path / "folder"), "--name", "tiny-gguf", "--json").json

    assert of_file["quantization"] == "none"
    assert of_file == of_folder


def test_a_folder_without_a_model_is_refused_in_one_line(lorry: Lorry, tmp_path: Path) -> None:
    refused = lorry("base", "register", str(tmp_path), "--name", "nothing")
    assert refused.code == 2
    assert (refused.err.startswith("error: INVALID_ARGUMENT: "), refused.err.count("\n")) == (True, 1)


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("torch", ("base", "register", ".", "--name", "n"), "lorry[worker]"),
        ("rich", ("base", "ls"), "lorry[cli]"),
        ("typer", (), "lorry[cli]"),
    ],
)
def test_an_extra_that_is_missing_is_named(address: str, missing: str, command: tuple[str, ...], extra: str) -> None:
    # None in sys.modules is how Python spells a module that cannot be imported.
    program = f"import sys; sys.modules[{missing!r}] = None; from lorry.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--registry", address, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert extra in done.stderr
    assert "Traceback" not in done.stderr
