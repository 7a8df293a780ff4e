"""Mixtures of experts: adapters of what every token passes are PEFT's; what no expert's parameter is, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from compute_worker.engine.engine import TransformersEngine
from lorry.errors import IncompatibleAdapter, UnsupportedAdapter
from lorry.format.bundle import check_bundle
from tests.support.adapters import write_adapter
from tests.support.mixtures import mixture
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run

pytestmark = QUIET
TOLERANCE = 1e-4
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES = {
    "mixtral": _ATTENTION,
    "qwen3_moe": _ATTENTION,
    "qwen2_moe": ["q_proj", "shared_expert.gate_proj", "shared_expert.down_proj"],
}


@pytest.fixture(scope="module")
def mixtral() -> TransformersEngine:
    return engine_of(mixture("mixtral"))


@pytest.mark.parametrize("family", CASES)
def test_adapters_of_what_every_token_passes_are_pefts_in_a_mixed_batch(tmp_path: Path, family: str) -> None:
    model, targets = mixture(family), CASES[family]
    lora = save_adapter(model, tmp_path / "lora", seed=1, r=4, lora_alpha=6, target_modules=targets)
    dora = save_adapter(model, tmp_path / "dora", seed=2, r=2, lora_alpha=4, target_modules=targets, use_dora=True)
    engine = engine_of(mixture(family))
    requests = [
        Request(prompt(20, 1), 0),
        Request(prompt(20, 2), 1, (install(engine, lora, 3),)),
        Request(prompt(20, 3), 2, (install(engine, dora, 9),)),
    ]
    run(engine, [request.row(0, cut) for request, cut in zip(requests, (19, 7, 19), strict=True)])

    got = run(engine, [request.row(cut, 20) for request, cut in zip(requests, (19, 7, 19), strict=True)])

    for logits, request, adapters in zip(got, requests, [[], [lora], [dora]], strict=True):
        assert (logits - peft_logits(model, adapters, request.tokens)[-1]).abs().max() < TOLERANCE


def test_an_adapter_of_a_router_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_adapter(mixture("mixtral"), tmp_path, r=2, target_parameters=["mlp.gate.weight"], target_modules=[])

    with pytest.raises(
        UnsupportedAdapter, match=r"target_parameters: .* stacks the weights of experts.*mlp\.gate\.weight"
    ):
        check_bundle(folder)


def test_an_adapter_of_experts_as_they_were_kept_before_is_refused_by_their_names(
    mixtral: TransformersEngine, tmp_path: Path
) -> None:
    expert = "model.layers.0.block_sparse_moe.experts.0.w1"
    facts = check_bundle(write_adapter(tmp_path, {expert: (32, 48, 2)})).facts

    with pytest.raises(IncompatibleAdapter, match=f"UNKNOWN_MODULE: the base has no module {expert}"):
        mixtral.reading(facts)


def test_a_merge_that_asks_for_an_experts_weight_is_refused_by_its_name(mixtral: TransformersEngine) -> None:
    with pytest.raises(UnsupportedAdapter, match=r"no experts, no routers.*, got model\.layers\.0\.mlp\.experts"):
        mixtral.weight("model.layers.0.mlp.experts")
