"""The peers: how each is started, what it can do, and our end of its pipe.

Owns the pipe and which adapters the peer has loaded. Does not know what runs behind the pipe; the
processes are peft_process, vllm_process and llama_process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.answering import CLOCK_VARIABLE
from benchmarks.measuring import tree_bytes

ROOT = Path(__file__).resolve().parent.parent
# Where `make bench-vllm` and `make bench-llama` put what they fetch and build.
BUILT = ROOT / ".bench"
# A line holds 8 prompts of 1,024 tokens; asyncio's own limit of 64 KB does not.
_LINE_BYTES = 1 << 20


class PeerFailedError(RuntimeError):
    """The peer's process ended; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A peer. target: the one of make that builds and measures it. python: the interpreter that has it.

    cases: what it is measured in; nothing means everything. dtype: its fastest type where the CPU has no
    products for bfloat16. adapters: whether it can have any. options: its module's arguments behind
    MODEL DTYPE THREADS.
    """

    name: str
    title: str
    target: str
    python: Path
    module: str
    cases: tuple[str, ...] = ()
    dtype: str = "float32"
    adapters: bool = True
    options: tuple[str, ...] = ()


_HERE = Path(sys.executable)
_VLLM = BUILT / "vllm" / "bin" / "python"
_WITH_LORA = ("B", "C", "D", "E", "F", "J", "H", "rss", "start")
_EVERY = (
    Kind("peft", "PEFT", "bench", _HERE, "peft_process"),
    Kind("vllm", "vLLM", "bench-vllm", _VLLM, "vllm_process", _WITH_LORA),
    Kind(
        "vllm-bare",
        "vLLM without LoRA",
        "bench-vllm",
        _VLLM,
        "vllm_process",
        ("A", "C", "I"),
        adapters=False,
        options=("bare",),
    ),
    Kind(
        "llama",
        "llama-server",
        "bench-llama",
        _HERE,
        "llama_process",
        ("A", "B"),
        dtype="float16",
        options=(str(BUILT / "llama"),),
    ),
)
KINDS = {kind.name: kind for kind in _EVERY}


class Peer:
    """A peer in a process of its own, which starts with the first command.

    Every method gives seconds as that process measured them. Raises PeerFailedError where it ended.
    """

    def __init__(self, kind: Kind, arguments: Sequence[str], clock: str, log: Path) -> None:
        self.kind = kind
        self.loaded: set[str] = set()
        self._command = (str(kind.python), "-m", f"benchmarks.{kind.module}", *arguments, *kind.options)
        self._environment = os.environ | {CLOCK_VARIABLE: clock}
        self._log = log
        self._process: Process | None = None

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process and its children."""
        return tree_bytes(self._process.pid) if self._process else 0

    async def fresh(self) -> float:
        """Drop all adapters."""
        self.loaded.clear()
        return await self._ask(do="fresh")

    async def load(self, name: str, folder: Path) -> float:
        """Load one adapter."""
        self.loaded.add(name)
        return await self._ask(do="load", name=name, folder=str(folder))

    async def switch(self, name: str) -> float:
        """Make a loaded adapter the active one."""
        return await self._ask(do="switch", name=name)

    async def generate(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], new_tokens: int
    ) -> float:
        """Generate one batch."""
        return await self._ask(do="generate", prompts=prompts, adapters=adapters, new_tokens=new_tokens)

    async def cold(self, name: str, folder: Path, prompt: Sequence[int]) -> float:
        """From a folder to the first token."""
        return await self._ask(do="cold", name=name, folder=str(folder), prompt=prompt)

    async def end(self) -> None:
        """End the process; the next command starts another one."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.terminate()
            await self._process.wait()
            self._process = None
            self.loaded.clear()

    async def _ask(self, **command: object) -> float:
        if self._process is None:
            self._process = await self._started()
            await self._answer(self._process)
        writer = self._process.stdin
        assert writer is not None  # noqa: S101 - a pipe, see `_started`
        writer.write(json.dumps(command).encode() + b"\n")
        await writer.drain()
        return await self._answer(self._process)

    async def _started(self) -> Process:
        if not self.kind.python.exists():
            raise PeerFailedError(f"expected {self.kind.python}: `make {self.kind.target}` builds it")
        with self._log.open("ab") as errors:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=errors,
                env=self._environment,
                cwd=ROOT,
                limit=_LINE_BYTES,
            )

    async def _answer(self, process: Process) -> float:
        line = await process.stdout.readline() if process.stdout is not None else b""
        if not line:
            raise PeerFailedError(f"the peer ended:\n{self._log.read_text()[-2000:]}")
        return float(json.loads(line)["seconds"])


@asynccontextmanager
async def peer(kind: Kind, arguments: Sequence[str], clock: str, state: Path) -> AsyncIterator[Peer]:
    """The peer for the time of the block. arguments: model, type, threads. clock: of CLOCKS. Its log is in `state`."""
    found = Peer(kind, arguments, clock, state / "peer.txt")
    try:
        yield found
    finally:
        await found.end()
