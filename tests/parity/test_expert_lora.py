"""LoRA on stacked experts (`target_parameters`): alone and in any batch, against PEFT in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compute_worker.contract import ActiveAdapter
from compute_worker.engine.engine import TransformersEngine
from lorry.errors import IncompatibleAdapter, UnsupportedAdapter
from tests.support.mixtures import MIXTURES, mixture
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, facts_of, peft_logits, save_adapter, weights_of
from tests.support.steps import Request, engine_of, install, prompt, run, run_all

pytestmark = [
    QUIET,
    # PEFT applies them to parameters, and looks for them among modules alone.
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"),
]
TOLERANCE = 1e-4
LENGTH = 18
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
KINDS: dict[str, dict[str, Any]] = {
    "both": {"target_modules": [], "target_parameters": [GATE_UP, DOWN]},
    "gate and up": {"target_modules": [], "target_parameters": [GATE_UP]},
    "down": {"r": 5, "target_modules": [], "target_parameters": [DOWN]},
    "beside attention": {"target_modules": ["q_proj", "v_proj"], "target_parameters": [DOWN, GATE_UP]},
    "rank-stabilised": {"target_modules": ["o_proj"], "target_parameters": [GATE_UP], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj"],
        "target_parameters": [GATE_UP, DOWN],
        "rank_pattern": {"down_proj": 7, "layers.0.mlp.experts.gate_up_proj": 2},
        "alpha_pattern": {"experts.gate_up_proj": 9, "q_proj": 2},
    },
    "one layer": {"target_modules": [], "target_parameters": [f"layers.1.{GATE_UP}", f"layers.1.{DOWN}"]},
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "dora": {"target_modules": ["q_proj"], "use_dora": True},
}


class Case:
    """An engine of a family with an adapter of each kind, and what PEFT says to each one's prompt."""

    def __init__(self, family: str, root: Path) -> None:
        model = mixture(family)
        self.model = model
        self.engine = engine_of(mixture(family), pool_bytes=8 << 20, kv_bytes=4 << 20)
        self.folders: dict[str, list[Path]] = {"base": []}
        self.requests = {"base": Request(prompt(LENGTH, 100), 0)}
        start = 1
        for seed, (kind, config) in enumerate(KINDS.items()):
            folder = save_adapter(model, root / kind, seed, **{"r": 3, "lora_alpha": 4} | config)
            adapter = install(self.engine, folder, start)
            start += adapter.rank + 1
            self.folders[kind] = [folder]
            self.requests[kind] = Request(prompt(LENGTH, seed), seed + 1, (adapter,))
        self.expected = {
            kind: peft_logits(model, self.folders[kind], request.tokens) for kind, request in self.requests.items()
        }

    def worst(self, kind: str, got: Tensor, end: int = LENGTH) -> float:
        """How far logits behind token `end` are from PEFT's."""
        return float((got - self.expected[kind][end - 1]).abs().max())


@pytest.fixture(scope="module", params=MIXTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def test_each_alone_is_pefts_and_shows(case: Case) -> None:
    for kind, request in case.requests.items():
        (got,) = run_all(case.engine, [request])
        (base,) = run_all(case.engine, [Request(request.tokens, request.seat)])
        assert case.worst(kind, got) < TOLERANCE, kind
        assert kind == "base" or (got - base).abs().max() > 0.05, kind


def test_all_of_them_and_the_base_in_one_step_are_pefts(case: Case) -> None:
    got = run_all(case.engine, list(case.requests.values()))

    worst = {kind: case.worst(kind, logits) for kind, logits in zip(case.requests, got, strict=True)}
    assert max(worst.values()) < TOLERANCE, worst


def test_chunks_and_decode_rows_in_one_step_are_pefts(case: Case) -> None:
    cuts = {kind: LENGTH - 1 if seat % 2 else 7 for seat, kind in enumerate(case.requests)}
    run(case.engine, [request.row(0, cuts[kind]) for kind, request in case.requests.items()])

    got = run(case.engine, [request.row(cuts[kind], LENGTH) for kind, request in case.requests.items()])

    worst = {kind: case.worst(kind, logits) for kind, logits in zip(case.requests, got, strict=True)}
    assert max(worst.values()) < TOLERANCE, worst


def test_a_step_of_the_base_alone_is_bit_by_bit_what_it_was(case: Case) -> None:
    alone = case.requests["base"]
    fresh = run_all(engine_of(mixture(case.engine.base.model_type)), [alone])
    run_all(case.engine, list(case.requests.values()))

    assert torch.equal(run_all(case.engine, [alone])[0], fresh[0])


def test_weights_scale_it_and_several_are_summed(case: Case) -> None:
    (both,), (attention,) = case.requests["both"].adapters, case.requests["attention"].adapters
    weighed = tuple(ActiveAdapter(one.start, one.rank, weight) for one, weight in ((both, 0.6), (attention, -0.4)))
    tokens = prompt(LENGTH, 7)

    got, off = run_all(
        case.engine,
        [Request(tokens, 0, weighed), Request(tokens, 1, (ActiveAdapter(both.start, both.rank, 0.0),))],
    )

    folders = [*case.folders["both"], *case.folders["attention"]]
    assert (got - peft_logits(case.model, folders, tokens, [0.6, -0.4])[-1]).abs().max() < TOLERANCE
    assert (off - peft_logits(case.model, [], tokens)[-1]).abs().max() < TOLERANCE


@pytest.fixture(scope="module")
def mixtral() -> TransformersEngine:
    return engine_of(mixture("mixtral"))


def test_two_on_the_same_experts_are_summed(mixtral: TransformersEngine, tmp_path: Path) -> None:
    model, config = mixture("mixtral"), {"r": 2, "lora_alpha": 4, **KINDS["both"]}
    folders = [save_adapter(model, tmp_path / str(seed), seed, **config) for seed in (1, 2)]
    first, second = install(mixtral, folders[0], 0, 0.5), install(mixtral, folders[1], 40, -1.5)

    (got,) = run_all(mixtral, [Request(prompt(9), 0, (first, second))])

    assert (got - peft_logits(model, folders, prompt(9), [0.5, -1.5])[-1]).abs().max() < TOLERANCE


def test_targets_of_experts_as_modules_are_what_peft_makes_of_them(mixtral: TransformersEngine, tmp_path: Path) -> None:
    """It turns them into parameters, with a rank and an alpha of their own for gate and up as one."""
    model = mixture("mixtral")
    folder = save_adapter(model, tmp_path, r=2, lora_alpha=3, target_modules=["q_proj", "w1", "w2", "w3"])

    assert {(one.parameter, one.rank, one.scaling) for one in facts_of(folder).experts} == {
        ("gate_up_proj", 4, 1.5),
        ("down_proj", 2, 1.5),
    }
    (got,) = run_all(mixtral, [Request(prompt(9), 0, (install(mixtral, folder, 0),))])
    assert (got - peft_logits(model, [folder], prompt(9))[-1]).abs().max() < TOLERANCE


def test_its_memory_is_charged_in_pool_rows(mixtral: TransformersEngine, tmp_path: Path) -> None:
    folder = save_adapter(mixture("mixtral"), tmp_path, r=2, **KINDS["both"])
    loaded = mixtral.read(weights_of(folder), facts_of(folder))

    # 2 layers of 4 experts of rank 2: 32 -> 96 and 48 -> 32 features in float32.
    assert loaded.nbytes == 2 * 4 * 2 * (32 + 96 + 48 + 32) * 4
    assert loaded.rank == -(-loaded.nbytes // mixtral.limits.row_bytes)
    assert not loaded.exclusive


def test_experts_of_other_shapes_are_refused_by_their_path(mixtral: TransformersEngine, tmp_path: Path) -> None:
    folder = save_adapter(mixture("qwen3_moe"), tmp_path, r=2, **KINDS["both"])

    with pytest.raises(
        IncompatibleAdapter,
        match=r"SHAPE_MISMATCH: .*\.0\.mlp\.experts\.gate_up_proj: the base has 4 experts of 32 -> 96 features, the "
        "adapter was made for 4 experts of 32 -> 48",
    ):
        mixtral.read(weights_of(folder), facts_of(folder))


def test_a_base_without_experts_refuses_it_by_name(tmp_path: Path) -> None:
    folder = save_adapter(mixture("mixtral"), tmp_path, r=2, **KINDS["both"])
    dense = engine_of(tiny_model("llama"))

    with pytest.raises(UnsupportedAdapter, match=r"0\.mlp\.experts: expected the experts of a base that stacks"):
        dense.reading(facts_of(folder))


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_are_known_in_bfloat16_too(family: str, tmp_path: Path) -> None:
    folder = save_adapter(mixture(family), tmp_path, r=2, **KINDS["both"])
    engine = engine_of(mixture(family).to(torch.bfloat16))

    loaded = engine.read(weights_of(folder), facts_of(folder))

    assert {tensor.dtype for each in loaded.experts.values() for tensor in each.tensors()} == {torch.bfloat16}


def test_experts_that_do_something_else_besides_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mixture("mixtral")
    folder = save_adapter(model, tmp_path, r=2, **KINDS["both"])
    kind = type(model.model.layers[0].mlp.experts)
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda *given: 1.01 * own(*given))
    engine = engine_of(model)

    with pytest.raises(UnsupportedAdapter, match=r"0\.mlp\.experts: .* nothing to them but gate and sum"):
        engine.reading(facts_of(folder))
