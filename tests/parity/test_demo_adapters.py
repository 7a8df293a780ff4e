"""The demo's adapters on the demo's model, alone and in one batch, against PEFT in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from compute_worker.engine.build import EngineSettings, build_engine
from compute_worker.engine.engine import TransformersEngine
from demo.model import NAME, cache_dir
from tests.support.peft_adapters import QUIET
from tests.support.steps import Request, install, run, run_all

MODEL = cache_dir() / "models" / NAME
ADAPTERS = sorted(folder for folder in (Path(__file__).parents[2] / "demo" / "adapters").iterdir() if folder.is_dir())
pytestmark = [
    QUIET,
    pytest.mark.skipif(not MODEL.is_dir(), reason=f"needs the demo model in {MODEL}: python -m demo.model"),
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    return torch.randint(100, 40000, (40,), generator=torch.Generator().manual_seed(5)).tolist()


@pytest.fixture(scope="module")
def expected(tokens: list[int]) -> dict[str, Tensor]:
    """Logits behind the prompt by PEFT, of every adapter and (last) of the base."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, ADAPTERS[0], adapter_name=ADAPTERS[0].name)
    for folder in ADAPTERS[1:]:
        adapted.load_adapter(folder, adapter_name=folder.name)
    logits = {}
    with torch.no_grad():
        for folder in ADAPTERS:
            adapted.set_adapter(folder.name)
            logits[folder.name] = adapted(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
        with adapted.disable_adapter():
            logits["base"] = adapted(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return logits


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    settings = EngineSettings(str(MODEL), dtype="float32", pool_bytes=64 << 20, kv_bytes=64 << 20)
    engine, _ = build_engine(settings)
    assert isinstance(engine, TransformersEngine)
    return engine


def test_they_are_pefts_alone_and_in_one_batch(
    engine: TransformersEngine, expected: dict[str, Tensor], tokens: list[int]
) -> None:
    active = {folder.name: (install(engine, folder, 9 * place),) for place, folder in enumerate(ADAPTERS)}
    requests = {name: Request(tokens, seat, active.get(name, ())) for seat, name in enumerate(expected)}

    for name, request in requests.items():
        _near(run_all(engine, [request])[0], expected[name])
    for logits, name in zip(run_all(engine, list(requests.values())), expected, strict=True):
        _near(logits, expected[name])
    cuts = [39 if seat % 2 else 11 for seat in range(len(requests))]
    run(engine, [request.row(0, cut) for request, cut in zip(requests.values(), cuts, strict=True)])
    last = [request.row(cut, 40) for request, cut in zip(requests.values(), cuts, strict=True)]
    for logits, name in zip(run(engine, last), expected, strict=True):
        _near(logits, expected[name])


def _near(got: Tensor, expected: Tensor) -> None:
    # Logits of this model reach 30; the tolerance is relative to that.
    assert (got - expected).abs().max() / expected.abs().max() < TOLERANCE
