"""A worker that verifies drafts answers as one that does not, in fewer steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from compute_worker.engine.native import library
from tests.support.pair import answer, running_pair
from tests.support.peft_adapters import QUIET
from tests.support.scraping import Scraped, labelled

pytestmark = [QUIET, pytest.mark.skipif(library() is None, reason="drafts are for the native executor")]
LENGTH = 60
ASKED = (
    {"prompt": "the sea the sea the sea"},
    {"prompt": "ab ab ab", "adapters": ["pirate"]},
    {"prompt": "one two one two", "temperature": 0.8, "seed": 7, "top_k": 5},
    {"prompt": "one two one two", "adapters": {"pirate": 0.5}, "repetition_penalty": 1.2},
)


async def served(folder: Path, model: Path, speculation: str) -> tuple[list[list[int]], dict[str, float]]:
    """What each of ASKED is answered, one after the other, and the worker's figures behind them."""
    scraped = Scraped()
    async with running_pair(folder, model, metrics_listen=scraped.address, speculation=speculation) as pair:
        await pair.publish("pirate", rank=3)
        answers = [(await answer(pair.worker, length=LENGTH, **asked)).tokens for asked in ASKED]
        return answers, await scraped.samples()


async def test_answers_are_the_same_and_steps_are_fewer(tmp_path: Path, model: Path) -> None:
    plain, without = await served(tmp_path / "off", model, "off")
    drafted, figures = await served(tmp_path / "lookup", model, "lookup")
    steps, accepted = "lorry_worker_step_seconds_count", labelled("lorry_worker_tokens_total", kind="accepted")
    assert drafted == plain
    assert without[accepted] == without[labelled("lorry_worker_tokens_total", kind="drafted")] == 0
    assert 0 < figures[accepted] <= figures[labelled("lorry_worker_tokens_total", kind="drafted")]
    assert figures[steps] == without[steps] - figures[accepted]
