"""Sixteen clients and mixed traffic on a worker that is too small for them: each answer is PEFT's alone.

The short form runs with all tests; `make load` runs the long one (LOAD_OUTPUTS, LOAD_SEED for the same
random numbers again; how the tasks take turns is not repeated).
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from lorry.errors import Internal
from tests.load.load import loaded
from tests.load.mutants import MUTANTS, broken
from tests.support.peft_adapters import QUIET

pytestmark = [
    QUIET,
    # The base has no biases; nothing is merged into it.
    pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed:UserWarning"),
]

OUTPUTS = int(os.environ.get("LOAD_OUTPUTS") or 400)
SEED = int(os.environ.get("LOAD_SEED") or random.getrandbits(32))
# Enough to meet each mutant that was planted, with any seed that was tried.
_MUTANT_OUTPUTS = 400
# What is planted in the tests of every day, and how many show it then: half of them are wrong. The others in the
# long form.
_DAILY = {"prefix-of-another-selection": 40}


async def test_every_answer_is_what_its_adapters_give_alone(tmp_path: Path, model: Path) -> None:
    sys.stdout.write(f"\nseed {SEED}\n")
    result = await loaded(tmp_path, model, SEED, OUTPUTS)
    sys.stdout.write(f"seed {SEED}: {result}\n")
    assert result.record.wrong == []
    assert result.record.done >= OUTPUTS
    # A worker that was never crowded shows nothing.
    assert min(result.worker.values()) > 0
    assert {"switches", "moves", "combines", "loads", "unloads", "turns"} <= result.record.actions.keys()
    assert result.record.cancelled > 0


@pytest.mark.parametrize(
    "mutant", [pytest.param(name, marks=() if name in _DAILY else pytest.mark.long) for name in MUTANTS]
)
async def test_a_worker_that_breaks_a_rule_is_noticed(mutant: str, tmp_path: Path, model: Path) -> None:
    with broken(mutant):
        assert await _noticed(tmp_path, model, _DAILY.get(mutant, _MUTANT_OUTPUTS))


async def _noticed(folder: Path, model: Path, outputs: int) -> bool:
    """Whether a wrong answer was found; or the engine, which looks where its adapters lie, found it itself."""
    found: list[str] = []
    try:
        found = (await loaded(folder, model, SEED, outputs)).record.wrong
    except* Internal as errors:
        found = [str(error) for error in errors.exceptions]
    return bool(found)
