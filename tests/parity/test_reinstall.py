"""Evicted and installed again, elsewhere: the same logits, and nothing left of whoever lay there before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from compute_worker.engine.engine import TransformersEngine
from lorry.errors import Internal
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, facts_of, peft_logits, save_adapter, weights_of
from tests.support.steps import Request, engine_of, generate, install, prompt, run_all

pytestmark = QUIET
TOLERANCE = 1e-4
TOKENS = prompt(13)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    return save_adapter(tiny_model("llama"), folder, seed=1, r=8, target_modules="all-linear", use_dora=True)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("narrow")
    return save_adapter(tiny_model("llama"), folder, seed=2, r=3, lora_alpha=7, target_modules=["q_proj", "down_proj"])


@pytest.fixture
def engine() -> TransformersEngine:
    return engine_of(tiny_model("llama"))


def test_other_rows_give_the_same_logits(engine: TransformersEngine, wide: Path, narrow: Path) -> None:
    first = run_all(engine, [Request(TOKENS, 0, (install(engine, narrow, 0),))])[0]
    install(engine, wide, 0)

    again = run_all(engine, [Request(TOKENS, 0, (install(engine, narrow, 17),))])[0]

    assert again.equal(first)


def test_a_smaller_adapter_over_a_larger_one_shows_nothing_of_it(
    engine: TransformersEngine, wide: Path, narrow: Path
) -> None:
    install(engine, wide, 4)
    expected = peft_logits(tiny_model("llama"), [narrow], TOKENS)[-1]

    got = run_all(engine, [Request(TOKENS, 0, (install(engine, narrow, 4),))])[0]

    assert (got - expected).abs().max() < TOLERANCE


def test_a_batch_goes_on_unchanged_while_others_are_installed(
    engine: TransformersEngine, wide: Path, narrow: Path
) -> None:
    request = Request(TOKENS, 0, (install(engine, narrow, 10),))
    before = run_all(engine, [request])[0]

    install(engine, wide, 2)
    install(engine, wide, 13)

    assert run_all(engine, [request])[0].equal(before)


def test_a_batch_goes_on_unchanged_while_another_thread_installs(
    engine: TransformersEngine, wide: Path, narrow: Path
) -> None:
    requests = [Request(TOKENS, 0, (install(engine, narrow, 10),)), Request(prompt(5), 1)]
    expected = generate(engine, requests, 10)
    loaded = engine.read(weights_of(wide), facts_of(wide))
    done = Event()

    def keep_installing() -> int:
        count = 0
        while not done.is_set():
            engine.install(loaded, 13 if count % 2 else 2)
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        installs = pool.submit(keep_installing)
        try:
            got = [generate(engine, requests, 10) for _ in range(5)]
        finally:
            done.set()

    assert got == [expected] * 5
    assert installs.result() > 0


def test_an_adapter_that_was_overwritten_is_gone(engine: TransformersEngine, wide: Path, narrow: Path) -> None:
    lost = install(engine, narrow, 6)
    install(engine, wide, 0)  # rows 0 to 7

    with pytest.raises(Internal, match="no adapter lies at pool row 6"):
        run_all(engine, [Request(TOKENS, 0, (lost,))])
