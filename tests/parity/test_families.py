"""Six families of models: the base and adapters in mixed batches, chunked, decoded, against PEFT in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compute_worker.engine.admission import AUTO, GENERAL
from compute_worker.engine.engine import TransformersEngine
from tests.support.models import FAMILIES, TARGETS, WINDOW, tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run

pytestmark = QUIET
TOLERANCE = 1e-4
# Well beyond the window of the families that have one, and into a second block.
LENGTH = 3 * WINDOW + 5


class Case:
    """An engine of a family with a LoRA and a DoRA, and what PEFT says to three requests."""

    def __init__(self, family: str, executor: str, root: Path) -> None:
        model = tiny_model(family)
        targets = [*TARGETS[family], "lm_head"]
        lora = save_adapter(model, root / "lora", seed=1, r=4, lora_alpha=6, target_modules=targets)
        dora = save_adapter(model, root / "dora", seed=2, r=2, lora_alpha=4, target_modules=targets, use_dora=True)
        self.engine: TransformersEngine = engine_of(tiny_model(family), executor=executor)
        self.requests = [
            Request(prompt(LENGTH, 1), 0),
            Request(prompt(LENGTH, 2), 1, (install(self.engine, lora, 3),)),
            Request(prompt(LENGTH, 3), 2, (install(self.engine, dora, 9),)),
        ]
        self.expected: list[Tensor] = [
            peft_logits(model, adapters, request.tokens)
            for request, adapters in zip(self.requests, [[], [lora], [dora]], strict=True)
        ]

    def check(self, spans: list[tuple[int, int, int]]) -> None:
        """Run tokens [begin, end) of requests in one step; what each draws from must be PEFT's."""
        logits = run(self.engine, [self.requests[index].row(begin, end) for index, begin, end in spans])
        for (index, _, end), got in zip(spans, logits, strict=True):
            assert (got - self.expected[index][end - 1]).abs().max() < TOLERANCE, (index, end)


# Those that the fast executor takes are also run by the general one.
CASES = [*((family, AUTO) for family in FAMILIES), *((family, GENERAL) for family in ("llama", "mistral", "qwen3"))]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(*request.param, tmp_path_factory.mktemp(request.param[0]))


def test_adapters_show(case: Case) -> None:
    base = tiny_model(case.engine.base.model_type)
    for request, expected in zip(case.requests[1:], case.expected[1:], strict=True):
        alone = base(input_ids=torch.tensor([request.tokens]), use_cache=False).logits[0]
        assert (alone - expected).abs().max() > 0.05


def test_whole_prompts_side_by_side(case: Case) -> None:
    case.check([(0, 0, LENGTH), (1, 0, LENGTH), (2, 0, LENGTH)])


def test_prompts_in_chunks_of_their_own_beside_each_other(case: Case) -> None:
    case.check([(0, 0, 5), (1, 0, 7)])
    case.check([(2, 0, 11), (1, 7, 16), (0, 5, 6)])
    case.check([(0, 6, LENGTH), (2, 11, 17), (1, 16, LENGTH)])
    case.check([(2, 17, LENGTH)])


def test_decode_steps_with_kv_are_full_forwards(case: Case) -> None:
    case.check([(0, 0, 3), (1, 0, 15), (2, 0, 1)])
    for step in range(1, 8):
        case.check([(0, 2 + step, 3 + step), (1, 14 + step, 15 + step), (2, step, step + 1)])


def test_a_step_in_which_nothing_draws_fills_the_kv(case: Case) -> None:
    rows = [replace(request.row(0, LENGTH - 1), sample=None) for request in case.requests]

    assert case.engine.step(rows) == [None, None, None]
    case.check([(index, LENGTH - 1, LENGTH) for index in range(3)])


def test_decode_rows_beside_chunks(case: Case) -> None:
    case.check([(0, 0, LENGTH - 1), (2, 0, LENGTH - 2)])
    case.check([(0, LENGTH - 1, LENGTH), (1, 0, 9), (2, LENGTH - 2, LENGTH - 1)])
    case.check([(1, 9, LENGTH), (2, LENGTH - 1, LENGTH)])
