"""Adapters on a base in int8 against PEFT on the same base: alone, weighted, and all in one batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from compute_worker.contract import ActiveAdapter
from compute_worker.engine.engine import TransformersEngine
from compute_worker.engine.loading import load_base
from lorry.checkpoint import packed
from tests.support.models import saved_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.quantised import needs_torchao, saved_int8
from tests.support.steps import Request, engine_of, install, prompt, run, run_all

needs_torchao()
pytestmark = QUIET
TOLERANCE = 1e-4
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"},
    "rslora": {"r": 6, "lora_alpha": 7, "use_rslora": True, "target_modules": ["up_proj", "down_proj"]},
    "dora": {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ["q_proj", "o_proj", "down_proj"]},
    "head": {"r": 4, "lora_alpha": 8, "target_modules": ["lm_head", "k_proj"]},
}
TOKENS = prompt(19)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("int8")
    return saved_int8(saved_model("llama", root / "plain"), root / "int8")


@pytest.fixture(scope="module")
def base(folder: Path) -> PreTrainedModel:
    """The base that PEFT gets copies of."""
    model = load_base(str(folder), "cpu", "float32")
    assert packed(model.model.layers[0].self_attn.q_proj.weight)
    return model


@pytest.fixture(scope="module")
def saved(base: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(base, root / name, seed=seed, **config)
        for seed, (name, config) in enumerate(VARIANTS.items())
    }


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return engine_of(load_base(str(folder), "cpu", "float32"))


@pytest.fixture(scope="module")
def installed(engine: TransformersEngine, saved: dict[str, Path]) -> dict[str, ActiveAdapter]:
    return {name: install(engine, adapter, 1 + 12 * place) for place, (name, adapter) in enumerate(saved.items())}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_alone_is_pefts(
    base: PreTrainedModel,
    engine: TransformersEngine,
    saved: dict[str, Path],
    installed: dict[str, ActiveAdapter],
    variant: str,
) -> None:
    expected = peft_logits(base, [saved[variant]], TOKENS)[-1]

    (got,) = run_all(engine, [Request(TOKENS, 0, (installed[variant],))])

    assert (expected - peft_logits(base, [], TOKENS)[-1]).abs().max() > 0.05  # the adapter shows at all
    assert (got - expected).abs().max() < TOLERANCE


def test_a_weighted_pair_is_pefts(
    base: PreTrainedModel, engine: TransformersEngine, saved: dict[str, Path], installed: dict[str, ActiveAdapter]
) -> None:
    pair = replace(installed["plain"], weight=0.5), replace(installed["rslora"], weight=-0.75)
    expected = peft_logits(base, [saved["plain"], saved["rslora"]], TOKENS, [0.5, -0.75])[-1]

    (got,) = run_all(engine, [Request(TOKENS, 0, pair)])

    assert (got - expected).abs().max() < TOLERANCE


def test_chunks_and_decode_rows_of_all_of_them_and_the_base_in_one_step_are_pefts(
    base: PreTrainedModel, engine: TransformersEngine, saved: dict[str, Path], installed: dict[str, ActiveAdapter]
) -> None:
    requests = [Request(prompt(24, seat), seat, (installed[name],)) for seat, name in enumerate(saved)]
    requests.append(Request(prompt(24, 9), 9))
    cuts = [23 if seat % 2 else 10 for seat in range(len(requests))]
    run(engine, [request.row(0, cut) for request, cut in zip(requests, cuts, strict=True)])

    got = run(engine, [request.row(cut, 24) for request, cut in zip(requests, cuts, strict=True)])

    for logits, request, adapters in zip(got, requests, [*([each] for each in saved.values()), []], strict=True):
        assert (logits - peft_logits(base, adapters, request.tokens)[-1]).abs().max() < TOLERANCE


def test_what_merges_start_from_is_the_values_that_the_weights_stand_for(
    base: PreTrainedModel, engine: TransformersEngine
) -> None:
    name = "model.layers.1.mlp.down_proj"

    weight = torch.from_numpy(engine.weight(name))

    assert weight.equal(base.get_submodule(name).weight.dequantize())
