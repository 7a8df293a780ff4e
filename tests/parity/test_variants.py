"""Every variant of LoRA, alone and in one batch with all the others, against PEFT in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compute_worker.contract import ActiveAdapter
from compute_worker.engine.admission import EXECUTORS
from compute_worker.engine.engine import TransformersEngine
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run, run_all

pytestmark = QUIET
TOLERANCE = 1e-4
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"},
    "rslora": {"r": 6, "lora_alpha": 7, "use_rslora": True, "target_modules": ["up_proj", "down_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj", "o_proj", "gate_proj"],
        "rank_pattern": {"k_proj": 2, "layers.1.self_attn.q_proj": 8},
        "alpha_pattern": {"gate_proj": 3, "layers.0.self_attn.o_proj": 20},
    },
    "dora": {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ["q_proj", "o_proj", "down_proj"]},
    "dora-rslora": {"r": 5, "lora_alpha": 4, "use_dora": True, "use_rslora": True, "target_modules": ["v_proj"]},
    "head": {"r": 4, "lora_alpha": 8, "target_modules": ["lm_head", "k_proj"]},
    "dora-head": {"r": 2, "lora_alpha": 8, "use_dora": True, "target_modules": ["lm_head"]},
    "rank-one": {"r": 1, "lora_alpha": 1, "target_modules": ["gate_proj"]},
}
TOKENS = prompt(19)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(tiny_model("llama"), root / name, seed=seed, **config)
        for seed, (name, config) in enumerate(VARIANTS.items())
    }


@pytest.fixture(scope="module", params=EXECUTORS)
def engine(request: pytest.FixtureRequest) -> TransformersEngine:
    return engine_of(tiny_model("llama"), executor=request.param)


@pytest.fixture(scope="module")
def installed(engine: TransformersEngine, saved: dict[str, Path]) -> dict[str, ActiveAdapter]:
    """All variants in the pool at once, with unused rows between them."""
    return {name: install(engine, folder, 1 + 12 * place) for place, (name, folder) in enumerate(saved.items())}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_alone_is_pefts(
    engine: TransformersEngine, saved: dict[str, Path], installed: dict[str, ActiveAdapter], variant: str
) -> None:
    expected = peft_logits(tiny_model("llama"), [saved[variant]], TOKENS)[-1]
    base = peft_logits(tiny_model("llama"), [], TOKENS)[-1]

    (got,) = run_all(engine, [Request(TOKENS, 0, (installed[variant],))])

    assert (expected - base).abs().max() > 0.05  # the adapter shows at all
    assert (got - expected).abs().max() < TOLERANCE


def test_all_variants_and_the_base_in_one_step_are_pefts(
    engine: TransformersEngine, saved: dict[str, Path], installed: dict[str, ActiveAdapter]
) -> None:
    requests = [Request(prompt(9 + seat, seat), seat, (installed[name],)) for seat, name in enumerate(saved)]
    requests.insert(3, Request(TOKENS, 20))
    folders: list[list[Path]] = [[folder] for folder in saved.values()]
    folders.insert(3, [])

    got = run_all(engine, requests)

    for logits, request, adapters in zip(got, requests, folders, strict=True):
        expected = peft_logits(tiny_model("llama"), adapters, request.tokens)[-1]
        assert (logits - expected).abs().max() < TOLERANCE


def test_chunks_and_decode_rows_of_all_variants_in_one_step_are_pefts(
    engine: TransformersEngine, saved: dict[str, Path], installed: dict[str, ActiveAdapter]
) -> None:
    requests = [Request(prompt(24, seat), seat, (installed[name],)) for seat, name in enumerate(saved)]
    cuts = [23 if seat % 2 else 10 for seat in range(len(requests))]
    run(engine, [request.row(0, cut) for request, cut in zip(requests, cuts, strict=True)])

    got = run(engine, [request.row(cut, 24) for request, cut in zip(requests, cuts, strict=True)])

    for logits, request, folder in zip(got, requests, saved.values(), strict=True):
        expected = peft_logits(tiny_model("llama"), [folder], request.tokens)[-1]
        assert (logits - expected).abs().max() < TOLERANCE


def test_a_base_request_in_a_mixed_batch_is_the_bases(
    engine: TransformersEngine, installed: dict[str, ActiveAdapter]
) -> None:
    alone = tiny_model("llama")(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0, -1]
    others = [Request(prompt(5, seat), seat + 1, (adapter,)) for seat, adapter in enumerate(installed.values())]

    got = run_all(engine, [*others, Request(TOKENS, 0)])[-1]

    assert (got - alone).abs().max() < TOLERANCE
