"""llama.cpp's server out of xllamacpp's wheel, until stdin ends; prints its address when it serves.

Owns its parameters. Runs in the environment that `make bench-llama` built.

    .bench/llama/bin/python -m benchmarks.llama_server MODEL.gguf THREADS SLOTS [ADAPTER.gguf ...]
"""

from __future__ import annotations

import os
import sys

import xllamacpp

# Tokens of a slot: 64 of a prompt and 64 of an answer, with room.
_CONTEXT = 256


def main() -> None:
    """Serve."""
    _, model, threads, slots, *adapters = sys.argv
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_parallel = int(slots)
    parameters.n_ctx = _CONTEXT * int(slots)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(threads)
    parameters.cache_ram_mib = 0
    parameters.lora_init_without_apply = True
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0) for adapter in adapters]
    address = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints goes to the log
    server = xllamacpp.Server(parameters)
    print(server.listening_address, file=address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
