"""Sources, recipes and PEFT's own answer, for the tests of the merges.

Owns adapters that fit the tiny llama of tests.support.models. Does not know any formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import merge_utils
from safetensors.torch import load_file
from torch import Tensor

from compute_worker.combination import CombineMethod, CombineSource
from compute_worker.merge import TorchCombiner
from compute_worker.merge.draws import draw, key_of
from lorry.format.bundle import check_bundle
from lorry.format.digest import digest_of_file
from tests.support.adapters import WEIGHTS, Modules, write_adapter
from tests.support.models import tiny_model

Q, V, DOWN = "self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"
# (in, out) of the modules of the tiny llama
_SHAPES = {Q: (32, 32), V: (32, 16), DOWN: (48, 32)}


# Every method, with parameters that prune, choose and cut.
RECIPES: dict[str, dict[str, Any]] = {
    "linear": {},
    "cat": {},
    "sum": {},
    "magnitude_prune": {"density": 0.5},
    "ties": {"density": 0.5, "majority_sign": "frequency"},
    "dare_linear": {"density": 0.5, "seed": 3},
    "dare_ties": {"density": 0.5, "majority_sign": "total", "seed": 3},
    "svd": {"rank": 3, "clamp_quantile": 0.99},
    "magnitude_prune_svd": {"density": 0.5, "rank": 3},
    "ties_svd": {"density": 0.5, "majority_sign": "total", "rank": 3},
    "dare_linear_svd": {"density": 0.5, "seed": 3, "rank": 3, "clamp_quantile": 0.99},
    "dare_ties_svd": {"density": 0.5, "majority_sign": "frequency", "seed": 3, "rank": 3},
}


def llama_modules(rank: int | Mapping[str, int], *names: str) -> dict[str, tuple[int, int, int]]:
    """Both layers' modules of these names (all where none is named), of one rank or of one for each name."""
    ranks = dict.fromkeys(names or _SHAPES, rank) if isinstance(rank, int) else rank
    return {f"model.layers.{layer}.{name}": (*_SHAPES[name], ranks[name]) for layer in range(2) for name in ranks}


def adapter(folder: Path, seed: int, modules: Modules | None = None, **options: Any) -> Path:
    """An adapter of rank 4 on all modules unless told otherwise, that targets them by their short names."""
    modules = modules or llama_modules(4)
    targets = sorted({name.rpartition(".")[2] for name in modules})
    config = {"target_modules": targets, **options.pop("config", {})}
    return write_adapter(folder / str(seed), modules, **{"seed": seed, "scale": 0.5, "config": config, **options})


def source(folder: Path, weight: float = 1.0) -> CombineSource:
    """The adapter as the runtime hands it over."""
    weights = folder / WEIGHTS
    return CombineSource(weights, check_bundle(folder).facts, digest_of_file(weights), weight)


def base_weight(module: str) -> NDArray[np.float32]:
    """The tiny llama's, [out, in]."""
    weight: NDArray[np.float32] = tiny_model("llama").get_submodule(module).weight.numpy()
    return weight.T if "embed" in module else weight


def method(name: str, **parameters: float | str) -> CombineMethod:
    """A recipe's method."""
    return CombineMethod(name, tuple(parameters.items()))


def combine(into: Path, how: CombineMethod, folders: Sequence[Path], weights: Sequence[float]) -> dict[str, Tensor]:
    """Our tensors; the folder is checked as a bundle on the way."""
    sources = [source(folder, weight) for folder, weight in zip(folders, weights, strict=True)]
    TorchCombiner(base_weight).combine(how, sources, into)
    check_bundle(into)
    return load_file(into / WEIGHTS)


def peft_model(folders: Sequence[Path]) -> PeftModel:
    """The tiny llama with the adapters under the names `a0`, `a1`, ..."""
    model = PeftModel.from_pretrained(tiny_model("llama"), folders[0], adapter_name="a0")
    for number, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=f"a{number}")
    return model.eval()


def peft_combine(folders: Sequence[Path], weights: Sequence[float], name: str, **options: Any) -> dict[str, Tensor]:
    """The tensors of PEFT's add_weighted_adapter, under the names that it saves them by."""
    model = _loaded(tuple(folders))
    names = [f"a{number}" for number in range(len(folders))]
    model.base_model.add_weighted_adapter(names, list(weights), "merged", combination_type=name, **options)
    state = get_peft_model_state_dict(model, adapter_name="merged", save_embedding_layers=False)
    merged = {key: tensor.detach().clone() for key, tensor in state.items()}
    model.delete_adapter("merged")
    return merged


def peft_formula(
    sources: Mapping[Path, str], weights: Sequence[float], name: str, parameters: Mapping[str, Any]
) -> dict[str, Tensor]:
    """PEFT's own formula, module by module, of our parameters: a single source is not turned into `linear`.

    sources: folders with their digests. Where PEFT draws, it draws our numbers.
    """
    model = _loaded(tuple(sources))
    names = [f"a{number}" for number in range(len(sources))]
    digests = dict(zip(names, sources.values(), strict=True))
    merged = {}
    for path, layer in model.named_modules():
        held = [adapter for adapter in names if adapter in getattr(layer, "lora_A", {})]
        if held:
            sides = ["delta"] if name.endswith("svd") else ["A", "B"]
            module = path.removeprefix("base_model.model.")
            places = [(module, side, digests[adapter]) for side in sides for adapter in held]
            with _our_draws(parameters.get("seed", 0), places):
                a, b = _peft_module(model, layer, names, list(weights), name, parameters)
            merged |= {f"{path}.lora_A.weight": a.detach(), f"{path}.lora_B.weight": b.detach()}
    return merged


def _peft_module(
    model: PeftModel, layer: Any, names: list[str], weights: list[float], name: str, given: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    density, sign = given.get("density"), given.get("majority_sign", "total")
    if not name.endswith("svd"):
        way = model.base_model._generalized_task_arithmetic_weighted_adapter
        return tuple(way(name, names, weights, layer, density, sign))
    way = model.base_model._svd_generalized_task_arithmetic_weighted_adapter
    rank = given.get("rank") or max(model.peft_config[adapter].r for adapter in names)
    return tuple(way(name, names, weights, rank, layer, None, None, density, sign, given.get("clamp_quantile")))


@contextmanager
def _our_draws(seed: int, places: Sequence[tuple[str, str, str]]) -> Iterator[None]:
    left = iter(places)

    def pruned(tensor: Tensor, density: float, *, rescale: bool) -> Tensor:
        assert rescale
        return tensor * draw(tensor.shape, density, key_of(seed, *next(left))) / density

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_utils, "random_pruning", pruned)
        yield


@cache
def _loaded(folders: tuple[Path, ...]) -> PeftModel:
    return peft_model(folders)


def deltas(tensors: Mapping[str, Tensor], scaling: float = 1.0) -> dict[str, Tensor]:
    """scaling B A by module, in fp64."""
    ends = ".lora_A.weight", ".lora_B.weight"
    modules = [name.removesuffix(ends[0]) for name in tensors if name.endswith(ends[0])]
    return {m: scaling * tensors[m + ends[1]].double() @ tensors[m + ends[0]].double() for m in modules}
