"""What a worker takes in memory: bytes as its budgets compute them, beside what its process has.

Owns the table of the README: one line a part, each filled on purpose and measured when it is full. The rest
is Python, torch and transformers: what a process has that did nothing but import them.

    python -m benchmarks.memory --adapters 32
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peer import KINDS
from benchmarks.running import say
from benchmarks.world import DTYPE, KV_BYTES, QUICK, Sides, World, world
from demo.model import ensure_model
from demo.pair import end_on_signals

_MIB = 1 << 20
# Long enough that their KV shows: 32 requests of 512 tokens.
_REQUESTS, _TOKENS = 32, 512
# In which the worker has KV memory ahead of use: some 260 MB, at 400 MB/s on a slow host.
_IDLE_SECONDS = 3
# What has no budget: the interpreter with its libraries.
_IMPORTS = """
import sys
from lorry import lean
lean.load(sys.argv[1])
import compute_worker.app
print(open('/proc/self/statm').read().split()[1])
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A part. computed: bytes by budgets; measured: what the process grew by; None where there is no such figure."""

    part: str
    computed: int | None
    measured: int | None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--adapters", type=int, default=32, help="how many lie in the pool; %(default)s here")
    parser.add_argument("--dtype", default=DTYPE, help="of the weights; %(default)s here")
    options = parser.parse_args()
    end_on_signals()
    model = os.environ.get("MODEL") or str(ensure_model())
    with tempfile.TemporaryDirectory(prefix="lorry-memory-") as state:
        print(table(asyncio.run(measure(model, options.dtype, options.adapters, Path(state)))))


async def measure(model: str, dtype: str, adapters: int, state: Path) -> list[Line]:
    """Fill a worker part by part."""
    imports = _imported(model)
    sides = Sides(dtype, KINDS["peft"], dtype)  # the peer starts with its first command, which never comes
    async with world(model, sides, QUICK, state) as both:
        lines = [Line("interpreter, torch, transformers", None, imports)]
        base = (await _used(both))["base_bytes"]
        lines.append(Line("base", base, both.worker_bytes - imports))
        say("adapters ...")
        lines += await _filled(both, adapters)
        say("requests ...")
        before = both.worker_bytes
        prompts = both.prompts.fresh(_REQUESTS, _TOKENS)
        await asyncio.gather(*(both.answer(prompt, None, 1) for prompt in prompts))
        await asyncio.sleep(_IDLE_SECONDS)
        computed = (await _used(both))["kv_token_bytes"] * _REQUESTS * (_TOKENS + 1)
        ahead = min(computed, KV_BYTES // 4)
        part = f"KV of {_REQUESTS} requests of {_TOKENS} tokens, and ahead of the next"
        lines.append(Line(part, computed + ahead, both.worker_bytes - before))
        lines.append(Line("all", sum(line.computed or 0 for line in lines), both.worker_bytes))
    return lines


async def _filled(both: World, adapters: int) -> list[Line]:
    """A load takes room in both tiers at once, so that the process shows their sum."""
    before = both.worker_bytes
    for seed in range(adapters):
        await both.worker.load(await both.publish(seed))
    used, grown = await _used(both), both.worker_bytes - before
    return [
        Line(f"pool: {adapters} adapters", used["pool_bytes"], None),
        Line("host tier: the same adapters (measured: both)", used["host_bytes"], grown),
    ]


async def _used(both: World) -> dict[str, int]:
    """What is used of each budget, and the bytes of a token's KV."""
    budgets = {budget.name: budget for budget in (await both.worker.capabilities()).budgets}
    a_token = budgets["kv_bytes"].limit // budgets["kv_tokens"].limit
    return {name: budget.used for name, budget in budgets.items()} | {"kv_token_bytes": a_token}


def _imported(model: str) -> int:
    """Resident bytes of a process that has imported the worker and done nothing."""
    command = [sys.executable, "-c", _IMPORTS, model]
    pages = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(pages) * os.sysconf("SC_PAGESIZE")


def table(lines: Sequence[Line]) -> str:
    """Markdown, in MiB."""
    rows = ["| part | computed, MiB | measured, MiB |", "|---|---|---|"]
    rows += [f"| {line.part} | {_mib(line.computed)} | {_mib(line.measured)} |" for line in lines]
    return "\n".join(rows)


def _mib(nbytes: int | None) -> str:
    return "" if nbytes is None else f"{nbytes / _MIB:,.0f}"


if __name__ == "__main__":
    main()
