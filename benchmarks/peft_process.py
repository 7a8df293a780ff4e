"""PEFT as the peer: a process of its own that does one command at a time and says how long it took.

Owns the model under PEFT and the clock around each command. Reads a JSON object a line on stdin,
answers {"seconds": S} a line on stdout, the result's clock running here and not around the pipe.
PEFT gets its best case: adapters have the base's type, base and single adapters run without
adapter_names, and folders lie on the local disk.

    python -m benchmarks.peft_process MODEL DTYPE THREADS
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel


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
        with _clock() as seconds:
            if self._model is not None:
                self._base, self._model = self._model.unload(), None
        return seconds()

    def load(self, name: str, folder: str) -> float:
        """Load one adapter from its folder."""
        with _clock() as seconds:
            if self._model is None:
                self._model = PeftModel.from_pretrained(self._base, folder, adapter_name=name, **self._loading).eval()
            else:
                self._model.load_adapter(folder, adapter_name=name, **self._loading)
        return seconds()

    def switch(self, name: str) -> float:
        """Make `name` the active adapter."""
        with _clock() as seconds:
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
        with bare, torch.inference_mode(), _clock() as seconds:
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                **options,
            )
        _demand(made.shape[1] - ids.shape[1], new_tokens)
        return seconds()

    def cold(self, name: str, folder: str, prompt: Sequence[int]) -> float:
        """From a folder to the first token under that adapter; it is dropped again behind the clock."""
        model, ids = self._adapted(), torch.tensor([prompt])
        with _clock() as seconds, torch.inference_mode():
            self.load(name, folder)
            self.switch(name)
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)
        model.delete_adapter(name)
        return seconds()

    def _adapted(self) -> PeftModel:
        if self._model is None:
            raise RuntimeError("expected an adapter to be loaded before")
        return self._model


def _demand(got: int, expected: int) -> None:
    if got != expected:
        raise RuntimeError(f"expected {expected} new tokens, got {got}")


@contextmanager
def _clock() -> Iterator[Callable[[], float]]:
    """The seconds of the block, to be asked for behind it."""
    began = time.perf_counter()
    ended = began
    try:
        yield lambda: ended - began
    finally:
        ended = time.perf_counter()


def main() -> None:
    """Answer commands until stdin ends."""
    _, model, dtype, threads = sys.argv
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # the answers have the pipe for themselves
        peer = Peer(model, dtype)
        print(json.dumps({"seconds": 0.0}), file=answers, flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            seconds = getattr(peer, command.pop("do"))(**command)
            print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
