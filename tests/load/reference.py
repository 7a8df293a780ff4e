"""PEFT on a copy of the base: the logits of one text at a time, under the adapters that a reply names.

Owns which adapters PEFT has at hand, switched on and off; combinations are merged here again. Does not know
what was asked, nor what an answer is compared with.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from compute_worker.combination import CombineMethod, CombineSource
from compute_worker.merge.combiner import TorchCombiner
from lorry.format.bundle import WEIGHTS_NAME, check_bundle
from lorry.format.facts import AdapterFacts
from tests.load.meanings import Selection
from tests.load.stock import Recipe
from tests.support.peft_adapters import adapted_model


class Reference:
    """folders: files by digest. sources: digests by `name@number`, for recipes."""

    def __init__(self, model: PreTrainedModel, folders: Mapping[str, Path], sources: Mapping[str, str]) -> None:
        self._base = model
        self._folders = dict(folders)
        self._sources = sources
        self._facts: dict[str, AdapterFacts] = {}
        self._alone: dict[str, nn.Module] = {}  # models of adapters that need their own, by digest
        self._adapted: PeftModel | None = None
        self._layers: list[LoraLayer] = []
        self._names: dict[str, str] = {}  # of the adapters that share a model, by digest

    def make(self, recipe: Recipe, digest: str, into: Path) -> None:
        """Merge a combination anew; `digest` names it from now on."""
        sources = []
        for name, weight in recipe.sources.items():
            source = self._sources[f"{name}@1"]
            folder = self._folders[source]
            sources.append(CombineSource(folder / WEIGHTS_NAME, check_bundle(folder).facts, source, weight))
        into.mkdir(parents=True, exist_ok=True)
        method = CombineMethod(recipe.method, tuple(recipe.parameters.items()))
        TorchCombiner(self._weight).combine(method, sources, into)
        self._folders[digest] = into

    @torch.no_grad()
    def logits(self, served: Selection, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
        """Logits [1 + answer, vocabulary] behind the prompt and behind each token of the answer."""
        ids = torch.tensor([[*prompt, *answer]])
        with self._active(dict(served)) as model:
            begins = self._begins(served, prompt, ids.shape[1])
            logits: Tensor = model(input_ids=ids, use_cache=False, **begins).logits
            return logits[0, len(prompt) - 1 :]

    @contextmanager
    def _active(self, weights: Mapping[str, float]) -> Iterator[nn.Module]:
        """The base with these adapters active, each times its weight."""
        if not weights:
            yield self._base
            return
        for digest in weights:
            if digest not in self._facts:
                self._facts[digest] = check_bundle(self._folders[digest]).facts
        alone = next((digest for digest in weights if _is_more(self._facts[digest])), None)
        if alone is not None:
            if alone not in self._alone:
                self._alone[alone] = adapted_model(self._base, [self._folders[alone]])
            yield self._alone[alone]
            return
        model = self._holding(list(weights))
        with self._switched({self._names[digest]: weight for digest, weight in weights.items()}):
            yield model

    def _begins(self, served: Selection, prompt: Sequence[int], length: int) -> dict[str, Any]:
        """For an adapter that the prompt invokes: how far from the end it begins. PEFT's generate says it likewise."""
        words = next((self._facts[digest].invocation for digest, _ in served), ())
        if not words:
            return {}
        starts = [at for at in range(len(prompt)) if tuple(prompt[at : at + len(words)]) == words]
        return {"alora_offsets": [length - starts[-1] if starts else None]}

    def _holding(self, digests: Sequence[str]) -> PeftModel:
        """PEFT with these adapters among those that it has."""
        for digest in digests:
            if digest in self._names:
                continue
            self._names[digest] = name = f"adapter{len(self._names)}"
            if self._adapted is None:
                copied = copy.deepcopy(self._base)
                self._adapted = PeftModel.from_pretrained(copied, self._folders[digest], adapter_name=name)
            else:
                self._adapted.load_adapter(self._folders[digest], adapter_name=name)
            self._layers = [module for module in self._adapted.eval().modules() if isinstance(module, LoraLayer)]
        assert self._adapted is not None
        return self._adapted

    @contextmanager
    def _switched(self, weights: Mapping[str, float]) -> Iterator[None]:
        """These adapters are active, each times its weight.

        Layer by layer: PEFT's set_adapter does the same, and looks through all modules for each adapter.
        """
        scaled = [(layer.scaling, name) for layer in self._layers for name in weights if name in layer.scaling]
        before = [scaling[name] for scaling, name in scaled]
        for layer in self._layers:
            layer._active_adapter = list(weights)
        for scaling, name in scaled:
            scaling[name] *= weights[name]
        yield
        for (scaling, name), own in zip(scaled, before, strict=True):
            scaling[name] = own

    def _weight(self, module: str) -> NDArray:
        return self._base.get_submodule(module).weight.numpy()


def _is_more(facts: AdapterFacts) -> bool:
    """Whether an adapter needs a model of its own: it is more than layers of LoRA that are on or off."""
    return bool(facts.saved or facts.tokens or facts.biases or facts.invocation)
