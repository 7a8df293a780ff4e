"""Adapters that put something in the place of the base's: what is refused, what they weigh, what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MixtralConfig

from compute_worker.contract import ActiveAdapter
from compute_worker.engine.admission import EXECUTORS
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.native import library
from lorry.errors import IncompatibleAdapter, InvalidAdapter, LorryError, UnsupportedAdapter
from lorry.format.facts import AdapterFacts, SavedModule, TrainedBias
from tests.support.kinds import KINDS, resized_model
from tests.support.models import config_of, from_config, tiny_model
from tests.support.peft_adapters import QUIET, facts_of, save_adapter, weights_of
from tests.support.steps import Request, engine_of, generate, install, prompt, run_all

pytestmark = QUIET
HEAD = "base_model.model.lm_head.weight"
TABLE = "base_model.model.model.embed_tokens.weight"
TOKENS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return engine_of(tiny_model("llama"))


def saved(into: Path, kind: str, family: str = "llama") -> Path:
    """An adapter of a kind."""
    return save_adapter(tiny_model(family), into / kind, seed=1, **KINDS[family][kind])


def changed(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """Its file with other tensors."""
    tensors = load_file(weights_of(folder))
    change(tensors)
    into = folder.parent / "changed.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, into)
    return into


@pytest.mark.parametrize(
    ("kind", "exclusive"),
    [
        ("lora", False),
        ("dora", True),
        ("embedding-lora", False),
        ("embedding-lora-alone", False),
        ("head", True),
        ("embedding", True),
        ("tokens", True),
        ("norms", True),
    ],
)
def test_only_what_takes_the_place_of_the_bases_is_exclusive(
    tmp_path: Path, engine: TransformersEngine, kind: str, *, exclusive: bool
) -> None:
    folder = saved(tmp_path, kind)

    assert engine.read(weights_of(folder), facts_of(folder)).exclusive == exclusive


def test_trained_biases_are_exclusive(tmp_path: Path) -> None:
    engine = engine_of(tiny_model("qwen2"))
    folder = saved(tmp_path, "bias-all", "qwen2")

    assert engine.read(weights_of(folder), facts_of(folder)).exclusive


def test_what_does_not_fit_pool_rows_is_charged_in_pool_rows(tmp_path: Path, engine: TransformersEngine) -> None:
    folder = saved(tmp_path, "ends")
    adapter = engine.read(weights_of(folder), facts_of(folder))

    extra = 2 * 131 * 32 * 4
    assert adapter.rank == -(-extra // engine.limits.row_bytes)
    assert adapter.nbytes == extra + 2 * 3 * (32 + 32) * 4


def test_a_small_change_costs_no_more_rows_than_its_rank(tmp_path: Path, engine: TransformersEngine) -> None:
    folder = saved(tmp_path, "tokens")

    assert engine.read(weights_of(folder), facts_of(folder)).rank == 2


def test_neither_installing_nor_running_writes_to_the_charged_rows(tmp_path: Path, engine: TransformersEngine) -> None:
    adapter = install(engine, saved(tmp_path, "ends"), 5)
    before = {name: (layer.a.clone(), layer.b.clone()) for name, layer in engine._layers.items()}
    run_all(engine, [Request(prompt(9), 0, (adapter,))])

    assert adapter.rank > 3
    for name, layer in engine._layers.items():
        assert layer.a.equal(before[name][0])
        assert layer.b.equal(before[name][1])
        assert not layer.a[5 + 3 : 5 + adapter.rank].any()


Failing = Callable[[Path], tuple[Path, AdapterFacts]]


def missing_table(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "ends")
    return changed(folder, lambda tensors: tensors.__delitem__(TABLE)), facts_of(folder)


def infinite_head(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "head")
    return changed(folder, lambda tensors: tensors[HEAD][5].fill_(float("inf"))), facts_of(folder)


def infinite_tokens(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "tokens")
    return changed(folder, lambda tensors: tensors[TOKENS][0].fill_(float("nan"))), facts_of(folder)


def other_shape(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "head")
    return changed(folder, lambda tensors: tensors.update({HEAD: torch.zeros(131, 31)})), facts_of(folder)


def wide_head_alone(into: Path) -> tuple[Path, AdapterFacts]:
    folder = save_adapter(resized_model("llama", 140), into, **KINDS["llama"]["head"])
    return weights_of(folder), facts_of(folder)


def norm_of_another_size(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "norms")
    facts = facts_of(folder)
    return weights_of(folder), replace(facts, saved=(SavedModule("model.norm", (("weight", (31,)),)),))


def bias_of_a_norm_without(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "lora")
    return weights_of(folder), replace(facts_of(folder), biases=(TrainedBias("model.norm", 32),))


def bias_of_a_linear_without(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "lora")
    name = "model.layers.0.mlp.up_proj"
    more = {f"base_model.model.{name}.bias": torch.zeros(48)}
    return changed(folder, lambda tensors: tensors.update(more)), replace(
        facts_of(folder), biases=(TrainedBias(name, 48),)
    )


def a_module_that_the_base_lacks(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "norms")
    return weights_of(folder), replace(facts_of(folder), saved=(SavedModule("model.score", (("weight", (32,)),)),))


def two_kinds_in_one_module(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "lora")
    q = SavedModule("model.layers.0.self_attn.q_proj", (("weight", (32, 32)),))
    return weights_of(folder), replace(facts_of(folder), saved=(q,))


def another_bases_embedding(into: Path) -> tuple[Path, AdapterFacts]:
    folder = saved(into, "embedding-lora")
    copied = "base_model.model.model.embed_tokens.base_layer.weight"
    file = changed(folder, lambda tensors: tensors.update({copied: torch.zeros(131, 32)}))
    return file, replace(facts_of(folder), copies=("model.embed_tokens",))


@pytest.mark.parametrize(
    ("failing", "error", "reason"),
    [
        (missing_table, InvalidAdapter, "expected a tensor .*embed_tokens.weight"),
        (infinite_head, InvalidAdapter, "finite in float32"),
        (infinite_tokens, InvalidAdapter, "finite in float32"),
        (other_shape, IncompatibleAdapter, "expected shape"),
        (wide_head_alone, IncompatibleAdapter, "140 tokens"),
        (norm_of_another_size, IncompatibleAdapter, r"expected shape \[32\], got \[31\]"),
        (bias_of_a_norm_without, IncompatibleAdapter, r"model.norm.bias: expected shape \[\], got \[32\]"),
        (bias_of_a_linear_without, IncompatibleAdapter, "this one's has none"),
        (a_module_that_the_base_lacks, UnsupportedAdapter, "model.score"),
        (two_kinds_in_one_module, UnsupportedAdapter, "got two of them for one module"),
        (another_bases_embedding, IncompatibleAdapter, "a copy of the base's weight"),
    ],
)
def test_a_failing_read_is_typed_and_the_engine_goes_on_as_before(
    tmp_path: Path, engine: TransformersEngine, failing: Failing, error: type[LorryError], reason: str
) -> None:
    request = Request(prompt(7), 0)
    before = run_all(engine, [request])[0]
    weights, facts = failing(tmp_path)

    with pytest.raises(error, match=reason):
        engine.read(weights, facts)

    assert run_all(engine, [request])[0].equal(before)


def test_a_copy_of_the_bases_own_embedding_says_nothing(tmp_path: Path, engine: TransformersEngine) -> None:
    folder = saved(tmp_path, "embedding-lora")
    own = tiny_model("llama").model.embed_tokens.weight
    copied = "base_model.model.model.embed_tokens.base_layer.weight"
    file = changed(folder, lambda tensors: tensors.update({copied: own.to(torch.bfloat16)}))
    facts = facts_of(folder)

    with_copy = engine.read(file, replace(facts, copies=("model.embed_tokens",)))

    assert with_copy.nbytes == engine.read(weights_of(folder), facts).nbytes


def test_a_router_cannot_be_replaced(tmp_path: Path) -> None:
    sizes = {name: getattr(config_of("llama"), name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    config = MixtralConfig(
        **sizes, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4
    )
    model = from_config(config)
    folder = save_adapter(model, tmp_path, r=2, target_modules=["q_proj"], modules_to_save=["gate"])

    with pytest.raises(IncompatibleAdapter, match=r"no module model.layers.0.mlp.gate"):
        engine_of(model).read(weights_of(folder), facts_of(folder))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_embedding_lora_has_weights_and_a_weight_of_zero_is_the_base(tmp_path: Path, executor: str) -> None:
    engine = engine_of(tiny_model("llama"), executor=executor)
    adapter = install(engine, saved(tmp_path, "embedding-lora-alone"), 0)
    half = ActiveAdapter(adapter.start, adapter.rank, 0.5)
    tokens = prompt(9)

    off, base, twice, once = run_all(
        engine,
        [
            Request(tokens, 0, (replace(adapter, weight=0.0),)),
            Request(tokens, 1),
            Request(tokens, 2, (half, half)),
            Request(tokens, 3, (adapter,)),
        ],
    )

    assert off.equal(base)
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-5)
    assert (once - base).abs().max() > 0.05


@pytest.mark.skipif(library() is None, reason="no native kernels for this CPU: make setup builds them")
def test_a_step_that_the_fast_executor_cannot_run_is_the_general_ones_over_the_same_kv(tmp_path: Path) -> None:
    """A request is begun by one, goes on with the other beside it, and ends as it began."""
    results = []
    for executor in EXECUTORS:
        engine = engine_of(tiny_model("llama"), executor=executor)
        inner = install(engine, saved(tmp_path / executor, "inner"), 2)
        ends = install(engine, saved(tmp_path / f"{executor}-ends", "ends"), 20)
        requests = [Request(prompt(20), 0), Request(prompt(6, 1), 1, (ends,)), Request(prompt(9, 2), 2, (inner,))]
        results.append([generate(engine, requests[:2], 8), generate(engine, requests, 8), run_all(engine, requests)])

    assert results[0][:2] == results[1][:2]
    for got, want in zip(results[0][2], results[1][2], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_weights_are_given_for_merges_embeddings_turned(engine: TransformersEngine) -> None:
    table = tiny_model("llama").model.embed_tokens.weight

    assert torch.equal(torch.from_numpy(engine.weight("model.embed_tokens").copy()), table.T)
    with pytest.raises(UnsupportedAdapter, match="that see every token"):
        engine.weight("model.norm")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_copy_of_a_head_that_was_published_in_float16_is_the_bases_however_it_is_kept(
    tmp_path: Path, executor: str
) -> None:
    """Neither float32 nor float16 holds what bfloat16 makes of it."""
    model = tiny_model("llama")
    for parameter in model.parameters():
        parameter.data = (parameter.data * 1.01).half().float()
    folder = save_adapter(model, tmp_path, r=2, target_modules=["q_proj", "lm_head"], embeddings=True)
    assert facts_of(folder).copies == ("lm_head",)

    engine = TransformersEngine(model, Budgets(1 << 20, 1 << 20), executor, torch.bfloat16)

    assert engine.read(weights_of(folder), facts_of(folder)).rank == 2
