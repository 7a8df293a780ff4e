"""Adapters of the benchmarks: random, as PEFT would have written them, made when first asked for.

Owns their shapes (all seven linears of every layer) and their bytes: equal seed and rank, equal
files. Does not know who loads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

RANK = 16
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Small enough that the model goes on to write words, large enough that nothing is rounded away.
_DEVIATION = 0.02
_BYTES_OF_A_NUMBER = 2


class Adapters:
    """Folders of random adapters below `root`. shapes: (in, out) of the base's linears, by module path."""

    def __init__(self, root: Path, shapes: Mapping[str, tuple[int, int]]) -> None:
        self._root = root
        self._shapes = {name: shape for name, shape in shapes.items() if name.rpartition(".")[2] in LINEARS}
        if not self._shapes:
            raise ValueError(f"expected a base with linears named {', '.join(LINEARS)}, got {sorted(shapes)[:5]}")

    def folder(self, seed: int, rank: int = RANK, *, dora: bool = False) -> Path:
        """The folder of one adapter. dora: with magnitudes, all of them 1."""
        folder = self._root / f"{seed}-{rank}{'-dora' if dora else ''}"
        if not folder.exists():
            folder.mkdir(parents=True)
            tensors = self._tensors(seed, rank) | (self._magnitudes() if dora else {})
            save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            (folder / "adapter_config.json").write_text(json.dumps(_config(rank, dora=dora), indent=2))
        return folder

    def rank_of_bytes(self, size: int) -> int:
        """The rank at which an adapter is about so large."""
        return max(1, round(size / (_BYTES_OF_A_NUMBER * sum(map(sum, self._shapes.values())))))

    def _tensors(self, seed: int, rank: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, (width, out) in self._shapes.items():
            for part, shape in (("A", (rank, width)), ("B", (out, rank))):
                drawn = torch.randn(shape, generator=random) * _DEVIATION
                tensors[f"base_model.model.{name}.lora_{part}.weight"] = drawn.to(torch.bfloat16)
        return tensors

    def _magnitudes(self) -> dict[str, torch.Tensor]:
        return {
            f"base_model.model.{name}.lora_magnitude_vector": torch.ones(out, dtype=torch.bfloat16)
            for name, (_, out) in self._shapes.items()
        }


def _config(rank: int, *, dora: bool) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(LINEARS),
        "use_dora": dora,
    }
