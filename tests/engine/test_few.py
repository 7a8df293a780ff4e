"""A few tokens of a request in one step, as drafts are: each is computed as it would be without the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from compute_worker.engine.engine import TransformersEngine
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run

pytestmark = QUIET
# Tokens of the prompt, and with those behind it.
BEHIND, WHOLE = 21, 27
TOKENS = prompt(WHOLE)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_model("llama"), tmp_path_factory.mktemp("few"), r=6, target_modules="all-linear")


def native(dtype: torch.dtype) -> TransformersEngine:
    engine = engine_of(tiny_model("llama").to(dtype))
    if not engine.executor.startswith("native"):
        pytest.skip("no native kernels for this CPU: make setup builds them where g++ and AVX2 are")
    return engine


def behind(engine: TransformersEngine, adapter: Path | None, ends: list[int]) -> list[Tensor]:
    """Logits behind each piece of the tokens behind the prompt, which end there."""
    request = Request(TOKENS, 0, (install(engine, adapter, 0),) if adapter else ())
    run(engine, [request.row(0, BEHIND)])
    return [run(engine, [request.row(begin, end)])[0] for begin, end in zip([BEHIND, *ends], ends, strict=False)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapted", [False, True])
def test_logits_are_the_same_to_the_last_bit(adapter: Path, dtype: torch.dtype, *, adapted: bool) -> None:
    chosen = adapter if adapted else None
    one_by_one = behind(native(dtype), chosen, list(range(BEHIND + 1, WHOLE + 1)))
    some = behind(native(dtype), chosen, [BEHIND + 3, WHOLE])
    together = behind(native(dtype), chosen, [WHOLE])

    assert torch.equal(some[0], one_by_one[2])
    assert torch.equal(some[1], one_by_one[-1])
    assert torch.equal(together[0], one_by_one[-1])
