"""vLLM as the peer, in an environment and a process of its own.

Owns the engine. vLLM gets its best case: offline, in this process, without an HTTP server; ids in
and ids out; adapters loaded ahead, from the local disk; its compile cache warm after the first run.
Prefix caching is off, as ours finds nothing either.

    .bench/vllm/bin/python -m benchmarks.vllm_process MODEL DTYPE THREADS [bare]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.answering import answer, clock, demand

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

# As many adapters, of the same rank, as our pool holds.
_SLOTS = 32
_RANK = 16
# Longer than any prompt here with its answer.
_CONTEXT = 2048
_SETTINGS = {
    # GiB: 32 requests of 128 tokens, or 8 of 1,032, in float32.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Peer:
    """The engine. bare: without LoRA, which halves what vLLM reaches with it."""

    def __init__(self, model: str, dtype: str, *, bare: bool) -> None:
        from vllm import LLM

        adapters = {} if bare else {"max_loras": _SLOTS, "max_cpu_loras": _SLOTS, "max_lora_rank": _RANK}
        self._engine = LLM(
            model,
            dtype=dtype,
            enable_lora=not bare,
            enable_prefix_caching=False,
            max_model_len=_CONTEXT,
            max_num_seqs=_SLOTS,
            disable_log_stats=True,
            **adapters,
        )
        self._adapters: dict[str, LoRARequest] = {}
        # Never given twice: vLLM knows an adapter by its number.
        self._numbers = 0

    def fresh(self) -> float:
        """Drop all adapters."""
        with clock() as seconds:
            for adapter in self._adapters.values():
                self._engine.llm_engine.remove_lora(adapter.lora_int_id)
            self._adapters.clear()
        return seconds()

    def load(self, name: str, folder: str) -> float:
        """Load one adapter from its folder."""
        with clock() as seconds:
            self._engine.llm_engine.add_lora(self._known(name, folder))
        return seconds()

    def generate(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], new_tokens: int) -> float:
        """All prompts at once, each under its adapter or none, `new_tokens` each, greedily."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        requests = [self._adapters[name] if name else None for name in adapters]
        with clock() as seconds:
            answers = self._engine.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts],
                sampling,
                lora_request=requests if any(requests) else None,
                use_tqdm=False,
            )
        for one in answers:
            demand(len(one.outputs[0].token_ids), new_tokens)
        return seconds()

    def cold(self, name: str, folder: str, prompt: Sequence[int]) -> float:
        """From a folder to the first token under that adapter; it is dropped again behind the clock."""
        with clock() as seconds:
            self._known(name, folder)
            self.generate([prompt], [name], 1)
        self._engine.llm_engine.remove_lora(self._adapters.pop(name).lora_int_id)
        return seconds()

    def _known(self, name: str, folder: str) -> LoRARequest:
        from vllm.lora.request import LoRARequest

        self._numbers += 1
        self._adapters[name] = LoRARequest(name, self._numbers, folder)
        return self._adapters[name]


def main() -> None:
    """Answer commands until stdin ends."""
    _, model, dtype, threads, *bare = sys.argv
    if "LD_PRELOAD" not in os.environ:  # vLLM asks for Intel's OpenMP, which must be there before Python starts
        preloaded = os.environ | {
            "LD_PRELOAD": str(Path(sys.prefix) / "lib" / "libiomp5.so"),
            "OMP_NUM_THREADS": threads,
        }
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.vllm_process", *sys.argv[1:]], preloaded)  # noqa: S606
    os.environ.update(_SETTINGS, VLLM_CPU_OMP_THREADS_BIND=f"0-{int(threads) - 1}")
    answer(lambda: Peer(model, dtype, bare=bool(bare)))


if __name__ == "__main__":
    main()
