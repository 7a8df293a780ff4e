"""PEFT as the peer, in a process of its own.

Owns the model under PEFT. PEFT gets its best case: adapters have the base's type, base and single
adapters run without adapter_names, and folders lie on the local disk.

    python -m benchmarks.peft_process MODEL DTYPE THREADS
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.answering import answer, clock, demand


class Peer:
    """The base model with adapters around it. dtype: `bfloat16` or `float32`, of base and adapters."""

    def __init__(self, model: str, dtype: str) -> None:
        self._base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        # What loading is fastest with: no random initialisation, and PEFT's widening to float32 only where it must be.
        self._loading = {"low_cpu_mem_usage": True, "autocast_adapter_dtype": dtype == "float32"}
        self._model: PeftModel | None = None
        # Texts have the length that was asked for.
        self._base.generation_config.eos_token_id = None
        self._base.generation_config.pad_token_id = 0

    def fresh(self) -> float:
        """Drop all adapters; the base is bare again."""
        with clock() as seconds:
            if self._model is not None:
                self._base, self._model = self._model.unload(), None
        return seconds()

    def load(self, name: str, folder: str) -> float:
        """Load one adapter from its folder."""
        with clock() as seconds:
            if self._model is None:
                self._model = PeftModel.from_pretrained(self._base, folder, adapter_name=name, **self._loading).eval()
            else:
                self._model.load_adapter(folder, adapter_name=name, **self._loading)
        return seconds()

    def switch(self, name: str) -> float:
        """Make `name` the active adapter."""
        with clock() as seconds:
            self._adapted().set_adapter(name)
        return seconds()

    def generate(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], new_tokens: int) -> float:
        """One batch of prompts of one length, each under its adapter or none, `new_tokens` each, greedily."""
        model, ids = self._adapted(), torch.tensor(prompts)
        kinds = set(adapters)
        options = {"adapter_names": [name or "__base__" for name in adapters]} if len(kinds) > 1 else {}
        if not options and (name := adapters[0]):
            model.set_adapter(name)
        bare = model.disable_adapter() if kinds == {None} else nullcontext()
        with bare, torch.inference_mode(), clock() as seconds:
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                **options,
            )
        demand(made.shape[1] - ids.shape[1], new_tokens)
        return seconds()

    def cold(self, name: str, folder: str, prompt: Sequence[int]) -> float:
        """From a folder to the first token under that adapter; it is dropped again behind the clock."""
        model, ids = self._adapted(), torch.tensor([prompt])
        with clock() as seconds, torch.inference_mode():
            self.load(name, folder)
            self.switch(name)
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)
        model.delete_adapter(name)
        return seconds()

    def _adapted(self) -> PeftModel:
        if self._model is None:
            raise RuntimeError("expected an adapter to be loaded before")
        return self._model


def main() -> None:
    """Answer commands until stdin ends."""
    _, model, dtype, threads = sys.argv
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    answer(lambda: Peer(model, dtype))


if __name__ == "__main__":
    main()
