"""Several adapters at once, each with a weight, against PEFT with several active adapters and scaled ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from compute_worker.contract import ActiveAdapter
from compute_worker.engine.engine import TransformersEngine
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run_all

pytestmark = QUIET
TOLERANCE = 1e-4
TOKENS = prompt(21)
# Overlapping targets, different ranks and scalings; OPT has biases, which lora_bias needs.
CONFIGS: tuple[dict[str, object], ...] = (
    {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "fc1"]},
    {"r": 2, "lora_alpha": 3, "target_modules": ["v_proj", "fc1", "fc2"], "use_rslora": True},
    {"r": 7, "lora_alpha": 5, "target_modules": ["q_proj", "fc2", "lm_head"]},
    {"r": 3, "lora_alpha": 9, "target_modules": ["q_proj", "out_proj", "fc2"], "lora_bias": True},
)
STARTS = (40, 2, 13, 27)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(tiny_model("opt"), root / str(seed), seed=seed, **config) for seed, config in enumerate(CONFIGS)
    ]


@pytest.fixture(scope="module")
def engine(saved: list[Path]) -> TransformersEngine:
    engine = engine_of(tiny_model("opt"))
    for folder, start in zip(saved, STARTS, strict=True):
        install(engine, folder, start)
    return engine


def active(*weights: tuple[int, float]) -> tuple[ActiveAdapter, ...]:
    return tuple(ActiveAdapter(STARTS[index], int(str(CONFIGS[index]["r"])), weight) for index, weight in weights)


@pytest.mark.parametrize(
    "weights",
    [
        [(0, 1.0), (1, 1.0)],
        [(0, 0.5), (1, 0.5)],
        [(1, 0.3), (2, -1.7)],
        [(3, 0.6)],
        [(3, 0.25), (0, 2.0)],
        [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)],
    ],
)
def test_a_weighted_sum_is_pefts(
    engine: TransformersEngine, saved: list[Path], weights: list[tuple[int, float]]
) -> None:
    expected = peft_logits(
        tiny_model("opt"), [saved[index] for index, _ in weights], TOKENS, [weight for _, weight in weights]
    )

    (got,) = run_all(engine, [Request(TOKENS, 0, active(*weights))])

    assert (got - expected[-1]).abs().max() < TOLERANCE


def test_different_sums_in_one_step_are_pefts(engine: TransformersEngine, saved: list[Path]) -> None:
    mixes: list[list[tuple[int, float]]] = [
        [(0, 0.5), (1, 0.5)],
        [],
        [(1, 2.0)],
        [(2, 0.5), (0, -0.5)],
        [(3, 0.7), (1, 1.0)],
        [(0, 1.0)],
        [(3, 1.0)],
    ]
    requests = [Request(prompt(6 + seat, seat), seat, active(*mix)) for seat, mix in enumerate(mixes)]

    for got, request, mix in zip(run_all(engine, requests), requests, mixes, strict=True):
        folders, weights = [saved[index] for index, _ in mix], [weight for _, weight in mix]
        expected = peft_logits(tiny_model("opt"), folders, request.tokens, weights)[-1]
        assert (got - expected).abs().max() < TOLERANCE


def test_weight_zero_is_the_base(engine: TransformersEngine) -> None:
    off, base = run_all(engine, [Request(TOKENS, 0, active((0, 0.0), (3, 0.0))), Request(TOKENS, 1)])

    assert off.equal(base)
