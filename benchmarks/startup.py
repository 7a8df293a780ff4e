"""From a process that is not there to its first token, under an adapter: both sides from files in the page cache.

Owns the worker that is started for it, beside the one that the other cases use: the same settings, a cache
folder of its own, empty. `python -m benchmarks.startup` prints the pieces of one start, as the worker's log
tells them, and what it takes in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.measuring import Claim, tree_bytes
from benchmarks.world import PROMPT_TOKENS, World, local, name_of
from demo.model import ensure_model
from demo.pair import end_on_signals, server
from lorry import WorkerClient

_PREFIX = "LORRY_WORKER_"
_LOG = "log.txt"
_MIB = 1 << 20


class StartUp:
    """Seconds from the start of a process to its first token, imports and the model's loading included."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    async def prepare(self, world: World) -> None:
        """See Measurable: what either side reads from the disk is in memory behind this."""
        await world.publish(0)
        await self.ours(world, -1)
        await self.peer(world, -1)

    async def ours(self, world: World, turn: int) -> float:
        """See Measurable."""
        mine = psutil.Process(world.worker_pid).environ()
        settings = {name: value for name, value in mine.items() if name.startswith(_PREFIX)}
        folder = world.state / f"started-{turn}"
        settings |= {f"{_PREFIX}CACHE_DIR": str(folder / "cache"), f"{_PREFIX}NAME": folder.name}
        began = time.perf_counter()
        with server("compute_worker", folder, **settings) as worker:
            address = await asyncio.to_thread(worker.address)
            await first_token(address, world.prompts.fresh(1, PROMPT_TOKENS)[0], name_of(0))
            return time.perf_counter() - began

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Measurable."""
        await world.peer.end()
        began = time.perf_counter()
        name = None
        if world.peer.kind.adapters:
            name = local(name_of(0))
            await world.peer.load(name, world.adapters.folder(0))
        await world.peer.generate(world.prompts.fresh(1, PROMPT_TOKENS), [name], 1)
        return time.perf_counter() - began


async def first_token(address: str, prompt: list[int], adapter: str = "") -> None:
    """Wait for one token of a worker."""
    async with WorkerClient(address) as client:
        async for _ in client.generate(tokens=prompt, adapters=adapter or {}, max_new_tokens=1, ignore_eos=True):
            pass


def main() -> None:
    """Start one worker without a registry, and print where its time went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--dtype", default="auto", help="of the weights; %(default)s here")
    options = parser.parse_args()
    end_on_signals()
    model = os.environ.get("MODEL") or str(ensure_model())
    with tempfile.TemporaryDirectory(prefix="lorry-startup-") as folder:
        asyncio.run(_pieces(model, options.dtype, Path(folder)))


async def _pieces(model: str, dtype: str, folder: Path) -> None:
    settings = {"MODEL": model, "DTYPE": dtype, "LISTEN": "127.0.0.1:0", "REGISTRY": "127.0.0.1:1"}
    settings |= {"CACHE_DIR": str(folder / "cache")}
    began = time.perf_counter()
    with server("compute_worker", folder, **{f"{_PREFIX}{name}": value for name, value in settings.items()}) as worker:
        address = await asyncio.to_thread(worker.address)
        ready = time.perf_counter() - began
        await first_token(address, [1] * PROMPT_TOKENS)
        first = time.perf_counter() - began
        process = psutil.Process(worker.process.pid)
        cpu, memory = process.cpu_times(), tree_bytes(process.pid)
    print((folder / _LOG).read_text(), end="")
    print(
        f"ready {ready:.2f} s, first token {first:.2f} s, CPU {cpu.user + cpu.system:.2f} s, {memory / _MIB:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
