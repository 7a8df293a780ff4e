"""Scores of given tokens against PEFT's log_softmax, alone and in a batch of everything else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compute_worker.contract import ActiveAdapter, Drawn, Sampling, Scored, StepRow
from compute_worker.engine.admission import AUTO, GENERAL
from compute_worker.engine.engine import TransformersEngine
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt

pytestmark = QUIET
TOLERANCE = 1e-4
CONFIGS: tuple[dict[str, object], ...] = (
    {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
    {"r": 3, "lora_alpha": 5, "target_modules": ["v_proj", "lm_head"], "use_rslora": True},
    {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "use_dora": True},
)
STARTS = (0, 7, 20)
# Which adapters, tokens of the prompt, tokens that are scored behind it.
CASES = [((), 9, 5), ((0,), 20, 1), ((1,), 1, 17), ((2,), 12, 12), ((0, 1), 6, 9), ((0,), 30, 2)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(tiny_model("llama"), root / str(seed), seed=seed, **config) for seed, config in enumerate(CONFIGS)
    ]


@pytest.fixture(scope="module", params=[AUTO, GENERAL])
def engine(saved: list[Path], request: pytest.FixtureRequest) -> TransformersEngine:
    engine = engine_of(tiny_model("llama"), executor=request.param)
    for folder, start in zip(saved, STARTS, strict=True):
        install(engine, folder, start)
    return engine


def scoring(seat: int, adapters: tuple[int, ...], before: int, scored: int) -> StepRow:
    """A row that scores the last tokens of a random text."""
    active = tuple(ActiveAdapter(STARTS[one], int(str(CONFIGS[one]["r"])), 1.0) for one in adapters)
    text = prompt(before + scored, seed=seat)
    row = Request(text, seat, active).row(0, len(text) - 1)
    return replace(row, sample=None, targets=text[before:])


def right(got: object, saved: list[Path], row: StepRow, adapters: tuple[int, ...]) -> None:
    """As PEFT would have it."""
    assert isinstance(got, Scored)
    logits = peft_logits(tiny_model("llama"), [saved[one] for one in adapters], row.tokens)[-len(row.targets) :]
    expected = logits.log_softmax(-1)[range(len(row.targets)), list(row.targets)]
    assert got.logprobs == pytest.approx(expected.tolist(), abs=TOLERANCE)
    assert list(got.greedy) == [best == token for best, token in zip(logits.argmax(-1), row.targets, strict=True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_score_is_pefts(
    engine: TransformersEngine, saved: list[Path], case: tuple[tuple[int, ...], int, int]
) -> None:
    row = scoring(0, *case)
    right(engine.step([row])[0], saved, row, case[0])


def test_scores_in_a_mixed_batch_are_those_alone(engine: TransformersEngine, saved: list[Path]) -> None:
    rows = [scoring(seat, *case) for seat, case in enumerate(CASES)]
    others = [
        replace(Request(prompt(7 + seat, seed=seat), seat, ()).row(0, 7 + seat), sample=sampling, allowed=allowed)
        for seat, (sampling, allowed) in enumerate(
            [
                (Sampling(), None),
                (None, None),
                (Sampling(temperature=1.0, seed=3, logprobs=2), None),
                (Sampling(), bytes([0, 0b100]) + bytes(15)),
            ],
            start=len(CASES),
        )
    ]
    mixed = [rows[0], others[0], rows[1], rows[2], others[1], others[2], rows[3], rows[4], others[3], rows[5]]

    got = dict(zip(map(id, mixed), engine.step(mixed), strict=True))

    for row, case in zip(rows, CASES, strict=True):
        right(got[id(row)], saved, row, case[0])
    assert got[id(others[1])] is None
    assert got[id(others[0])] == engine.step([others[0]])[0]
    assert got[id(others[3])] == Drawn(10)


def test_a_score_in_chunks_is_the_score(engine: TransformersEngine, saved: list[Path]) -> None:
    whole = scoring(0, (0, 1), 5, 20)
    logprobs: list[float] = []
    for begin, end in ((0, 3), (3, 9), (9, 10), (10, 24)):
        targets = whole.targets[max(0, begin - 4) : max(0, end - 4)]
        chunk = replace(whole, tokens=whole.tokens[begin:end], position=begin, targets=targets)
        got = engine.step([chunk])[0]
        assert isinstance(got, Scored) == bool(targets)
        logprobs += got.logprobs if isinstance(got, Scored) else ()
    right(Scored(tuple(logprobs), engine.step([whole])[0].greedy), saved, whole, (0, 1))
