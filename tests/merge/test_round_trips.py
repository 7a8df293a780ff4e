"""A result is an adapter like any other: PEFT loads it and gives its source's logits, whatever the source left out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compute_worker.merge import TorchCombiner, room
from compute_worker.merge.sources import Share
from lorry.errors import UnsupportedCombination
from tests.merge.support import adapter, base_weight, combine, method, source
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter

pytestmark = [QUIET, pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed")]
TOKENS = [5, 17, 3, 99, 42]
# Short names, and fields that say of which modules of these names they speak.
PARTIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "layers": ("opt", {"target_modules": ["q_proj", "fc1"], "layers_to_transform": [0], "bias": "all"}),
    "excluded": (
        "qwen2",
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"], "bias": "all"},
    ),
    "embedding": ("gpt2", {"target_modules": ["c_fc", "wpe"], "exclude_modules": ["wpe"], "lora_bias": True}),
}


@pytest.mark.parametrize("kind", PARTIAL)
def test_a_result_has_the_modules_of_its_source_and_no_others(kind: str, tmp_path: Path) -> None:
    family, config = PARTIAL[kind]
    model = tiny_model(family)
    folder = save_adapter(model, tmp_path / "source", seed=3, r=2, lora_alpha=3, **config)

    def weight(module: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model.get_submodule(module).weight.numpy()
        return found

    TorchCombiner(weight).combine(method("cat"), [source(folder)], tmp_path / "result")

    expected, got = (peft_logits(tiny_model(family), [path], TOKENS) for path in (folder, tmp_path / "result"))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ties_svd", {"density": 0.5, "majority_sign": "frequency"}),
        ("dare_linear_svd", {"density": 0.5, "seed": 1}),
        ("magnitude_prune_svd", {"density": 0.5}),
    ],
)
def test_the_deltas_of_many_sources_are_never_there_together(
    name: str, parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = weakref.WeakSet[torch.Tensor]()
    most, delta = 0, Share.delta

    def counted(self: Share, weight: Any) -> torch.Tensor:
        nonlocal most
        most = max(most, len(alive))
        made = delta(self, weight)
        alive.add(made)
        return made

    monkeypatch.setattr(Share, "delta", counted)
    folders = [adapter(tmp_path, seed) for seed in range(6)]
    gc.disable()  # each goes with its last use, not with the next search for cycles
    try:
        combine(tmp_path / "result", method(name, **parameters), folders, [1.0] * 6)
    finally:
        gc.enable()

    assert most <= 1


def test_a_comparison_with_dora_forms_one_delta_and_no_square_of_its_longer_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [adapter(tmp_path, seed, dora=True) for seed in range(2)]
    sources = [source(folder) for folder in folders]
    combiner = TorchCombiner(base_weight)
    combiner.combine(method("svd", rank=48), sources, tmp_path / "result")
    monkeypatch.setattr(torch, "eye", None)

    assert combiner.compare(sources, tmp_path / "result").relative_error < 1e-6


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A container of 1 MB that has half of it."""
    for name, number in (("_LIMIT", 1 << 20), ("_USED", 1 << 19)):
        (tmp_path / name).write_text(f"{number}\n")
        monkeypatch.setattr(room, name, tmp_path / name)
    monkeypatch.setattr(room, "_BYTES", 1024)  # deltas of some thousand numbers are large
    return


@pytest.mark.usefixtures("crowded")
def test_a_delta_without_room_is_refused_and_what_forms_none_is_made(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed) for seed in range(2)]

    with pytest.raises(UnsupportedCombination, match="ties_svd forms deltas of 32 x 48 numbers, which takes 1 MB"):
        combine(tmp_path / "result", method("ties_svd", density=0.5), folders, (1.0, 1.0))
    for name in ("sum", "cat", "svd"):
        combine(tmp_path / name, method(name), folders, (1.0, 1.0))
