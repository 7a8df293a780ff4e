"""Our end of the peer's process: starts it, asks, and ends it.

Owns the pipe and which adapters the peer has loaded. Does not know PEFT.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A line holds 32 prompts of 64 tokens; asyncio's own limit of 64 KB would do, too, but barely.
_LINE_BYTES = 1 << 20


class PeerFailedError(RuntimeError):
    """The peer's process ended; the message ends with its log."""


class Peft:
    """PEFT in a process of its own. Every method gives seconds as that process measured them."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.loaded: set[str] = set()

    async def ready(self) -> None:
        """Wait until the model is loaded."""
        await self._answer()

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

    async def _ask(self, **command: object) -> float:
        if self._process.stdin is None:
            raise PeerFailedError("the peer was started without a pipe")
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._answer()

    async def _answer(self) -> float:
        line = await self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            raise PeerFailedError(f"the peer ended:\n{self._log.read_text()[-2000:]}")
        return float(json.loads(line)["seconds"])


@asynccontextmanager
async def peft(model: str, dtype: str, threads: int, state: Path) -> AsyncIterator[Peft]:
    """The peer for the time of the block; its log is in `state`."""
    log = state / "peft.txt"
    command = (sys.executable, "-m", "benchmarks.peft_process", model, dtype, str(threads))
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=errors, cwd=ROOT, limit=_LINE_BYTES
        )
        try:
            yield Peft(process, log)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
