"""Reading adapters: what does not fit is refused by type, and nothing that fails leaves a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compute_worker.engine.engine import TransformersEngine
from lorry.errors import IncompatibleAdapter, Internal, InvalidAdapter, LorryError, UnsupportedAdapter
from lorry.format.facts import AdapterFacts
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, facts_of, peft_logits, save_adapter, weights_of
from tests.support.steps import Request, engine_of, install, prompt, run_all

pytestmark = QUIET
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return save_adapter(tiny_model("llama"), folder, r=4, target_modules=["q_proj", "down_proj"], use_dora=True)


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return engine_of(tiny_model("llama"))


def changed(good: Path, into: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A file with other tensors than its facts say."""
    tensors = load_file(weights_of(good))
    change(tensors)
    save_file(tensors, into / "changed.safetensors")
    return into / "changed.safetensors"


def state_of(engine: TransformersEngine) -> str:
    """Digest of every number of base, pool and KV."""
    digest = hashlib.sha256()
    tensors = [tensor for layer in engine._layers.values() for tensor in (layer.a, layer.b, layer.rows())]
    kv = [*engine._kv._keys.values(), *engine._kv._values.values()]
    for tensor in (*engine._model.parameters(), *tensors, *kv):
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_an_adapter_tells_its_size_and_rank(engine: TransformersEngine, good: Path) -> None:
    adapter = engine.read(weights_of(good), facts_of(good))

    matrices = 2 * 4 * (32 + 32) + 2 * 4 * (48 + 32)
    gains = 4 * 32
    assert adapter.nbytes == 4 * (matrices + gains)
    assert adapter.rank == 4


def test_dora_is_exclusive_and_others_are_not(tmp_path: Path, engine: TransformersEngine, good: Path) -> None:
    plain = save_adapter(tiny_model("llama"), tmp_path, r=2, target_modules=["q_proj"])

    assert engine.read(weights_of(good), facts_of(good)).exclusive
    assert not engine.read(weights_of(plain), facts_of(plain)).exclusive


def test_the_file_is_not_needed_once_it_was_read(tmp_path: Path, engine: TransformersEngine, good: Path) -> None:
    copied = tmp_path / "adapter.safetensors"
    copied.write_bytes(weights_of(good).read_bytes())
    adapter = engine.read(copied, facts_of(good))
    copied.write_bytes(b"")

    engine.install(adapter, 0)

    assert all(module.a.isfinite().all() for module in adapter.modules.values())


Failing = Callable[[Path, Path, AdapterFacts], tuple[Path, AdapterFacts]]


def _first(facts: AdapterFacts, **fields: object) -> AdapterFacts:
    return replace(facts, modules=(replace(facts.modules[0], **fields), *facts.modules[1:]))


def cut_short(good: Path, into: Path, facts: AdapterFacts) -> tuple[Path, AdapterFacts]:
    (into / "cut.safetensors").write_bytes(weights_of(good).read_bytes()[:-100])
    return into / "cut.safetensors", facts


def tensor_missing(good: Path, into: Path, facts: AdapterFacts) -> tuple[Path, AdapterFacts]:
    return changed(good, into, lambda tensors: tensors.__delitem__(f"{Q}.lora_A.weight")), facts


def other_shape(good: Path, into: Path, facts: AdapterFacts) -> tuple[Path, AdapterFacts]:
    return changed(good, into, lambda tensors: tensors.update({f"{Q}.lora_B.weight": torch.zeros(4, 32)})), facts


def overflowing_scale(good: Path, into: Path, facts: AdapterFacts) -> tuple[Path, AdapterFacts]:  # noqa: ARG001 - one form
    return weights_of(good), _first(facts, scaling=1e40)


def zero_row(good: Path, into: Path, facts: AdapterFacts) -> tuple[Path, AdapterFacts]:
    def cancel(tensors: dict[str, Tensor]) -> None:
        # Row 0 of W + B A becomes exactly zero: A row 0 is row 0 of W, B takes it away.
        weight = tiny_model("llama").model.layers[0].self_attn.q_proj.weight
        a, b = torch.zeros(4, 32), torch.zeros(32, 4)
        a[0], b[0, 0] = weight[0], -1
        tensors.update({f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b})

    modules = tuple(replace(module, scaling=1.0) for module in facts.modules)
    return changed(good, into, cancel), replace(facts, modules=modules)


def unknown_module(good: Path, into: Path, facts: AdapterFacts) -> tuple[Path, AdapterFacts]:  # noqa: ARG001 - one form
    return weights_of(good), _first(facts, name="model.layers.9.mlp.down_proj")


def embedding(good: Path, into: Path, facts: AdapterFacts) -> tuple[Path, AdapterFacts]:  # noqa: ARG001 - one form
    return weights_of(good), _first(facts, name="model.embed_tokens", in_features=131, out_features=32)


def dora_with_bias(good: Path, into: Path, facts: AdapterFacts) -> tuple[Path, AdapterFacts]:
    first = facts.modules[0]
    bias = {f"base_model.model.{first.name}.lora_B.bias": torch.zeros(first.out_features)}
    return changed(good, into, lambda tensors: tensors.update(bias)), _first(facts, lora_bias=True)


@pytest.mark.parametrize(
    ("failing", "error", "reason"),
    [
        (cut_short, InvalidAdapter, "the tensors end at byte"),
        (tensor_missing, InvalidAdapter, "expected a tensor .*q_proj.lora_A.weight"),
        (other_shape, IncompatibleAdapter, "expected shape"),
        (overflowing_scale, InvalidAdapter, "finite in float32"),
        (zero_row, InvalidAdapter, "is zero"),
        (unknown_module, IncompatibleAdapter, "no module model.layers.9"),
        (embedding, IncompatibleAdapter, "embedding"),
        (dora_with_bias, UnsupportedAdapter, "DoRA with lora_bias"),
    ],
)
def test_a_failing_read_is_typed_and_leaves_everything_as_it_was(
    tmp_path: Path, engine: TransformersEngine, good: Path, failing: Failing, error: type[LorryError], reason: str
) -> None:
    victim = Request(prompt(7), 0, (install(engine, good, 3),))
    before = (run_all(engine, [victim])[0], state_of(engine))
    weights, facts = failing(good, tmp_path, facts_of(good))

    with pytest.raises(error, match=reason):
        engine.read(weights, facts)

    assert state_of(engine) == before[1]
    assert run_all(engine, [victim])[0].equal(before[0])


@pytest.mark.parametrize("start", [-1, 10**6])
def test_a_failing_install_leaves_everything_as_it_was(engine: TransformersEngine, good: Path, start: int) -> None:
    victim = Request(prompt(7), 0, (install(engine, good, 3),))
    before = (run_all(engine, [victim])[0], state_of(engine))

    with pytest.raises(Internal, match="outside of a pool"):
        install(engine, good, start)

    assert state_of(engine) == before[1]
    assert run_all(engine, [victim])[0].equal(before[0])


def test_an_install_changes_its_own_rows_alone(engine: TransformersEngine, good: Path) -> None:
    install(engine, good, 20)
    before = {name: (layer.a.clone(), layer.b.clone()) for name, layer in engine._layers.items()}

    install(engine, good, 9)

    for name, layer in engine._layers.items():
        for old, new in zip(before[name], (layer.a, layer.b), strict=True):
            assert old[:9].equal(new[:9])
            assert old[13:].equal(new[13:])


def test_values_that_only_a_wider_type_holds_are_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    folder = save_adapter(model, tmp_path, r=2, target_modules=["q_proj"])
    facts = facts_of(folder)
    weights = changed(
        folder, tmp_path, lambda tensors: tensors.update({f"{Q}.lora_A.weight": torch.full((2, 32), 1e5)})
    )

    with pytest.raises(InvalidAdapter, match="finite in float16"):
        engine_of(tiny_model("llama").half()).read(weights, facts)


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed")
def test_a_lora_bias_of_16_bits_is_scaled_in_32(tmp_path: Path) -> None:
    model = tiny_model("opt")
    folder = save_adapter(model, tmp_path, r=2, lora_alpha=7, target_modules=["q_proj", "fc1"], lora_bias=True)
    tensors = load_file(weights_of(folder))
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, weights_of(folder), {"format": "pt"})
    expected = peft_logits(model, [folder], prompt(9))[-1]

    engine = engine_of(model)
    got = run_all(engine, [Request(prompt(9), 0, (install(engine, folder, 0),))])[0]

    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
