"""Every kind of adapter where what is stored is bfloat16: no further from PEFT in float32 than rounding explains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compute_worker.engine.admission import AUTO, GENERAL
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.selfcheck import STORED_TOLERANCE, TOLERANCE
from tests.support.kinds import KINDS
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, install, prompt, run_all

pytestmark = QUIET
TOKENS = [57, 4, 130, *prompt(10), 9, 7]
# What the products are of; all is stored in bfloat16.
NARROW, WIDE = torch.bfloat16, torch.float32
CASES = [
    ("llama", "cpu", WIDE, AUTO),
    ("qwen2", "cpu", WIDE, AUTO),
    ("llama", "cpu", WIDE, GENERAL),
    ("llama", "cpu", NARROW, AUTO),
    ("gpt2", "cpu", NARROW, GENERAL),
    pytest.param("llama", "cuda", NARROW, AUTO, marks=pytest.mark.gpu),
    pytest.param("gpt2", "cuda", NARROW, AUTO, marks=pytest.mark.gpu),
]


@pytest.mark.parametrize(("family", "device", "dtype", "executor"), CASES)
def test_all_kinds_in_one_step_are_near_pefts(
    tmp_path: Path, family: str, device: str, dtype: torch.dtype, executor: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, torch sees none")
    model = tiny_model(family)
    engine = TransformersEngine(
        tiny_model(family).to(device, dtype), Budgets(8 << 20, 4 << 20), executor, stored=torch.bfloat16
    )
    requests, expected, start = [Request(TOKENS, 0)], [peft_logits(model, [], TOKENS)[-1]], 1
    for seat, (kind, config) in enumerate(KINDS[family].items(), 1):
        folder = save_adapter(model, tmp_path / kind, seed=seat, **config)
        requests.append(Request(TOKENS, seat, (install(engine, folder, start),)))
        expected.append(peft_logits(model, [folder], TOKENS)[-1])
        start += requests[-1].adapters[0].rank

    got = run_all(engine, requests)

    allowed = STORED_TOLERANCE if dtype == WIDE else TOLERANCE[dtype]
    for name, logits, want in zip(["base", *KINDS[family]], got, expected, strict=True):
        error = float((logits.cpu().float() - want).norm() / want.norm())
        assert error < allowed, (name, error)
