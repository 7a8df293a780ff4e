"""llama.cpp's server as the peer, in a process of its own.

Owns the server, its port on loopback, and the conversion of the base and of adapters to GGUF, which
happens once each, outside of the clock. A server takes its adapters when it starts: it is started
anew where others are loaded. It gets its best case: adapters in memory, ids in, no prompt cache.

    python -m benchmarks.llama_process MODEL DTYPE THREADS FOLDER      # FOLDER: what `make bench-llama` built
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.answering import answer, clock, demand

_KINDS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
# As many at once as any case here has.
_SLOTS = 32
# A server of this many MB of model answers its first request within seconds; a busy machine takes its time.
_PATIENCE_SECONDS = 600.0


class Peer:
    """The server over `model`. built: the folder with its environment, its converters and converted files."""

    def __init__(self, model: str, dtype: str, threads: str, built: Path) -> None:
        self._model, self._kind, self._threads, self._built = model, _KINDS[dtype], threads, built
        self._adapters: dict[str, Path] = {}
        self._server: subprocess.Popen[str] | None = None
        self._address = ""
        self._base = self._converted("convert_hf_to_gguf.py", Path(model), [])

    def fresh(self) -> float:
        """Drop all adapters."""
        self._adapters.clear()
        self._stop()
        return 0.0

    def load(self, name: str, folder: str) -> float:
        """Convert one adapter; the next request starts a server that has it."""
        with clock() as seconds:
            self._adapters[name] = self._converted("convert_lora_to_gguf.py", Path(folder), ["--base", self._model])
        self._stop()
        return seconds()

    def generate(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], new_tokens: int) -> float:
        """All prompts at once, each under its adapter or none, `new_tokens` each, greedily."""
        if self._server is None:
            self._start()
        with ThreadPoolExecutor(len(prompts)) as callers:
            work = [(prompt, name, new_tokens) for prompt, name in zip(prompts, adapters, strict=True)]
            with clock() as seconds:
                made = list(callers.map(self._complete, work))
        for count in made:
            demand(count, new_tokens)
        return seconds()

    def _complete(self, work: tuple[Sequence[int], str | None, int]) -> int:
        prompt, name, new_tokens = work
        request: dict[str, object] = {
            "prompt": prompt,
            "n_predict": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "lora": [{"id": i, "scale": float(known == name)} for i, known in enumerate(self._adapters)],
        }
        return int(self._post("/completion", request)["tokens_predicted"])

    def _post(self, path: str, body: Mapping[str, object]) -> dict[str, int]:
        asked = urllib.request.Request(  # noqa: S310 - our own server on loopback
            self._address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=_PATIENCE_SECONDS) as answered:  # noqa: S310 - likewise
            answer_of: dict[str, int] = json.load(answered)
        return answer_of

    def _start(self) -> None:
        python = str(self._built / "bin" / "python")
        command = [python, "-m", "benchmarks.llama_server", str(self._base), str(self._threads)]
        self._server = subprocess.Popen(
            [*command, str(_SLOTS), *map(str, self._adapters.values())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._server.stdout is None or not (address := self._server.stdout.readline().strip()):
            raise RuntimeError("expected the server's address, it ended")
        self._address = address

    def _stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait()
            self._server = None

    def _converted(self, script: str, folder: Path, options: Sequence[str]) -> Path:
        made = self._built / "converted" / f"{folder.name}-{self._kind}.gguf"
        if not made.exists():
            made.parent.mkdir(exist_ok=True)
            half = made.with_suffix(".half")
            command = [sys.executable, str(self._built / "source" / script), str(folder), *options]
            subprocess.run([*command, "--outtype", self._kind, "--outfile", str(half)], check=True)
            half.rename(made)
        return made


def main() -> None:
    """Answer commands until stdin ends."""
    _, model, dtype, threads, built = sys.argv
    answer(lambda: Peer(model, dtype, threads, Path(built)))


if __name__ == "__main__":
    main()
