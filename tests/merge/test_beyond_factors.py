"""Sources that are more than A and B: DoRA against its base, and lora_bias, which PEFT resets and drops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.merge import TorchCombiner
from lorry.errors import UnsupportedAdapter, UnsupportedCombination
from tests.merge.support import (
    DOWN,
    RECIPES,
    Q,
    adapter,
    base_weight,
    combine,
    deltas,
    llama_modules,
    method,
    peft_combine,
    peft_model,
    source,
)
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET

TOKENS = torch.tensor([[5, 17, 3, 99, 42]])
FULL = 48  # no module of the tiny llama has a larger rank
pytestmark = [QUIET, pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning")]


def merged_delta(folder: Path) -> dict[str, torch.Tensor]:
    """What PEFT changes in the base's weights when it merges an adapter, magnitudes and all."""
    merged = PeftModel.from_pretrained(tiny_model("llama"), folder).merge_and_unload()
    return {
        f"base_model.model.{name}": (module.weight - torch.from_numpy(base_weight(name))).double()
        for name, module in merged.named_modules()
        if name in llama_modules(1)
    }


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return PeftModel.from_pretrained(tiny_model("llama"), folder).eval()(TOKENS).logits


def logits_together(folders: Sequence[Path]) -> torch.Tensor:
    """All of them active in PEFT, weight 1 each."""
    model = peft_model(folders)
    model.base_model.set_adapter([f"a{number}" for number in range(len(folders))])
    with torch.inference_mode():
        return model(TOKENS).logits


def test_svd_of_a_dora_is_the_change_that_peft_makes_to_the_base(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, 1, dora=True, rslora=True), adapter(tmp_path, 2, llama_modules(4, Q, DOWN))]
    made = deltas(combine(tmp_path / "out", method("svd", rank=FULL), folders, (0.75, -0.5)))
    dora, plain = merged_delta(folders[0]), deltas(load_file(folders[1] / "adapter_model.safetensors"))
    for module, delta in made.items():
        expected = 0.75 * dora[module] - 0.5 * plain.get(module, torch.zeros(()))  # alpha is the rank
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-4)


def test_a_dora_at_full_rank_has_its_own_logits(tmp_path: Path) -> None:
    folder = adapter(tmp_path, 1, dora=True)
    combine(tmp_path / "out", method("svd", rank=FULL), [folder], (1.0,))
    torch.testing.assert_close(logits(tmp_path / "out"), logits(folder), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_methods_of_deltas_take_a_dora_and_the_others_say_which_do(name: str, tmp_path: Path) -> None:
    folders = [adapter(tmp_path, 1, dora=True), adapter(tmp_path, 2)]
    how = method(name, **RECIPES[name])
    if name.endswith("svd"):
        assert all(tensor.isfinite().all() for tensor in combine(tmp_path / "out", how, folders, (1.0, 1.0)).values())
        return
    says = rf"{source(folders[0]).digest} is a DoRA adapter.* svd, magnitude_prune_svd, .* against the base"
    with pytest.raises(UnsupportedCombination, match=says):
        combine(tmp_path / "out", how, folders, (1.0, 1.0))


def test_peft_resets_the_magnitudes_of_a_dora(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed, dora=True) for seed in (1, 2)]
    theirs = peft_combine(folders, (1.0, 1.0), "svd")
    end = ".lora_magnitude_vector"
    magnitudes = {name: tensor for name, tensor in theirs.items() if name.endswith(end)}
    assert len(magnitudes) == len(llama_modules(1))
    for name, tensor in magnitudes.items():  # as if they had never been trained: the norms of the bare base
        weight = torch.from_numpy(base_weight(name.removeprefix("base_model.model.").removesuffix(end)))
        torch.testing.assert_close(tensor, torch.linalg.vector_norm(weight, dim=1))


@pytest.mark.parametrize("name", ["cat", "sum"])
def test_lora_bias_is_added_up_and_not_dropped(name: str, tmp_path: Path) -> None:
    folders = [
        adapter(tmp_path, 1, lora_bias=True, rslora=True, alpha=3),
        adapter(tmp_path, 2),
        adapter(tmp_path, 3, llama_modules(2, Q), lora_bias=True),
    ]
    combine(tmp_path / "out", method(name), folders, (1.0, 1.0, 1.0))
    torch.testing.assert_close(logits(tmp_path / "out"), logits_together(folders), rtol=0, atol=1e-4)
    theirs = peft_combine(folders, (1.0, 1.0, 1.0), "cat")
    assert all(tensor.count_nonzero() == 0 for key, tensor in theirs.items() if key.endswith("bias"))


@pytest.mark.parametrize("name", RECIPES)
def test_biases_go_through_the_method_as_the_deltas_that_they_are(name: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path, 1, lora_bias=True, alpha=8)
    made = combine(tmp_path / "out", method(name, **RECIPES[name]), [folder], (0.5,))
    own = load_file(folder / "adapter_model.safetensors")
    for key, bias in ((key, tensor) for key, tensor in made.items() if key.endswith("bias")):
        whole = 0.5 * 2 * own[key]  # weight, alpha / rank
        kept = bias != 0
        share = 2 if name.startswith("dare") else 1  # what is kept by chance is divided by the density
        torch.testing.assert_close(bias[kept], share * whole[kept], rtol=1e-6, atol=0)
        assert bool(kept.all()) == ("density" not in RECIPES[name])


def test_the_base_of_a_dora_is_the_engines_own_in_the_form_of_a_linear() -> None:
    model = tiny_model("gpt2")
    stored = model.transformer.h[0].attn.c_attn.weight.clone()  # Conv1D: [in, out]
    engine = TransformersEngine(model, Budgets(1 << 20, 1 << 20))
    assert torch.equal(torch.from_numpy(engine.weight("transformer.h.0.attn.c_attn")), stored.T)
    assert torch.equal(torch.from_numpy(engine.weight("transformer.wte")), model.transformer.wte.weight.T)
    with pytest.raises(UnsupportedAdapter, match=r"transformer\.ln_f"):
        engine.weight("transformer.ln_f")


def test_the_deviation_from_the_exact_sum_is_measured_on_what_was_stored(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, 1, dora=True, dtype="BF16"), adapter(tmp_path, 2, lora_bias=True, dtype="BF16")]
    for number, rank in enumerate((2, FULL)):
        into = tmp_path / f"rank-{rank}"
        combine(into, method("svd", rank=rank), folders, (0.75, -0.5))
        found = TorchCombiner(base_weight).compare([source(folders[0], 0.75), source(folders[1], -0.5)], into)
        made, first = deltas(load_file(into / "adapter_model.safetensors")), merged_delta(folders[0])
        second = deltas(load_file(folders[1] / "adapter_model.safetensors"))
        exact = {module: 0.75 * first[module] - 0.5 * second[module] for module in made}
        off = {module: made[module] - exact[module] for module in made}
        # The biases are small beside the deltas, and stored to 8 bits like these.
        expected = (
            torch.cat([d.flatten() for d in off.values()]).norm()
            / torch.cat([d.flatten() for d in exact.values()]).norm()
        )
        assert found.relative_error == pytest.approx(float(expected), rel=0.05)
        assert found.worst_relative_error >= found.relative_error
        assert found.worst_module in llama_modules(1)
        assert (found.relative_error > 0.1, found.relative_error < 0.01) == ((True, False), (False, True))[number]
