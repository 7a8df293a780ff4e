"""The committed demo adapters are what demo/train.py says they are, and small enough to commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME, check_bundle
from lorry.format.facts import Variant

DEMO = Path(__file__).resolve().parents[2] / "demo"
LAYERS = 30
CLAIMS = {
    "pirate": (Variant.LORA, 8, 4.0, {"q_proj", "v_proj"}),
    "letter": (Variant.LORA, 8, 4.0, {"v_proj", "o_proj"}),
    "emoji": (Variant.RSLORA, 4, 4.0, {"q_proj", "v_proj"}),
    "json": (Variant.DORA, 4, 4.0, {"q_proj", "k_proj", "v_proj", "o_proj"}),
}


def test_there_are_no_others() -> None:
    assert {path.name for path in (DEMO / "adapters").iterdir()} == set(CLAIMS)
    assert {path.stem for path in (DEMO / "data").iterdir()} == set(CLAIMS)


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_an_adapter_is_sound_and_what_it_claims_to_be(name: str) -> None:
    variant, rank, scaling, targets = CLAIMS[name]
    facts = check_bundle(DEMO / "adapters" / name).facts
    assert (facts.variant, facts.rank, facts.dtype) == (variant, rank, "BF16")
    assert facts.base_name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert len(facts.modules) == LAYERS * len(targets)
    assert {module.name.rpartition(".")[2] for module in facts.modules} == targets
    assert {(module.rank, module.scaling) for module in facts.modules} == {(rank, scaling)}


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_an_adapter_is_small_and_says_nothing_of_the_machine_it_was_made_on(name: str) -> None:
    files = {path.name: path for path in (DEMO / "adapters" / name).iterdir()}
    assert files.keys() == {CONFIG_NAME, WEIGHTS_NAME}
    assert sum(path.stat().st_size for path in files.values()) < 1_500_000
    values = json.loads(files[CONFIG_NAME].read_text()).values()
    assert not [value for value in values if isinstance(value, str) and value.startswith(("/", "~", "file:"))]


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_the_examples_are_complete(name: str) -> None:
    lines = [json.loads(line) for line in (DEMO / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 48
    assert all(line.keys() == {"prompt", "answer"} and all(line.values()) for line in lines)
    assert len({line["prompt"] for line in lines}) == len(lines)
