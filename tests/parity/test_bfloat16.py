"""bfloat16: how far from float32 PEFT the worker may be, and that PEFT in bfloat16 is no nearer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run_all

pytestmark = QUIET
# Error relative to the norm of the logits. 8 bits are 4e-3 a rounding; two layers of some ten roundings add up to 2e-2.
TOLERANCE = 3e-2


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("use_dora", [False, True])
def test_logits_are_within_three_percent_of_float32_as_pefts_are(tmp_path: Path, *, use_dora: bool) -> None:
    model, tokens = tiny_model("llama"), prompt(20)
    folder = save_adapter(model, tmp_path, r=4, lora_alpha=8, target_modules="all-linear", use_dora=use_dora)
    expected = peft_logits(model, [folder], tokens)[-1]
    engine = engine_of(tiny_model("llama").to(torch.bfloat16))

    got = run_all(engine, [Request(tokens, 0, (install(engine, folder, 5),)), Request(prompt(9), 1)])[0]

    peft = peft_logits(tiny_model("llama").to(torch.bfloat16), [folder], tokens)[-1]
    assert error(got, expected) < TOLERANCE
    assert error(got, expected) < 2 * error(peft, expected)
