"""`make bench-combine`: combinations that end in an svd, beside PEFT's add_weighted_adapter: time and memory.

Owns which methods, and over which linears of the model. Each value is of a process of its own
(`combining_process`), so that no side inherits the other's memory.
`python -m benchmarks.combining --methods svd,ties_svd --layers 2 --repeats 3`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import report
from benchmarks.adapters import RANK, Adapters
from benchmarks.measuring import Claim, machine
from benchmarks.running import run
from demo.model import ensure_model

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "combining"
METHODS: dict[str, dict[str, float]] = {
    "svd": {"rank": RANK},
    "ties_svd": {"density": 0.5, "rank": RANK},
    "cat": {},
}
_UNITS = {"seconds": "s", "bytes": "MB"}
_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class World:
    """A model, and adapters of it on some layers. Values are kept: time and memory are of one run."""

    model: str
    folders: Sequence[Path]
    state: Path
    known: dict[tuple[str, str, int], dict[str, float]] = field(default_factory=dict)

    async def measured(self, side: str, method: str, turn: int) -> dict[str, float]:
        """Seconds and bytes of one combination."""
        key = side, method, turn
        if key not in self.known:
            arguments = (side, self.model, method, json.dumps(METHODS[method]), str(self.state / method))
            command = (sys.executable, "-m", "benchmarks.combining_process", *arguments, *map(str, self.folders))
            process = await create_subprocess_exec(*command, stdout=PIPE, cwd=ROOT)
            out, _ = await process.communicate()
            self.known[key] = json.loads(out)
        return self.known[key]


class Combination:
    """A method's time, or the memory that it takes above what was there before. what: `seconds` or `bytes`."""

    def __init__(self, method: str, what: str, modules: int) -> None:
        title = f"{method} of 2 adapters on {modules} linears, {'time' if what == 'seconds' else 'memory'}"
        self.claim = Claim(f"{method}-{what}", title, _UNITS[what], "PEFT", higher=False)
        self._method, self._what = method, what

    async def prepare(self, world: World) -> None:
        """See Measurable: a process of its own is where both sides start."""

    async def ours(self, world: World, turn: int) -> float:
        """See Measurable."""
        return self._value(await world.measured("ours", self._method, turn))

    async def peer(self, world: World, turn: int) -> float:
        """See Measurable."""
        return self._value(await world.measured("peft", self._method, turn))

    def _value(self, measured: dict[str, float]) -> float:
        return measured[self._what] / (_MEGABYTE if self._what == "bytes" else 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.combining", description=__doc__)
    made.add_argument("--methods", default=",".join(METHODS), help=f"some of {','.join(METHODS)}")
    made.add_argument("--layers", type=int, default=1, help="of the model that the adapters change, 7 linears each")
    made.add_argument("--repeats", type=int, default=3, help="for the median")
    options = made.parse_args(arguments)
    model = os.environ.get("MODEL") or str(ensure_model())
    with tempfile.TemporaryDirectory(prefix="lorry-benchmarks-") as state:
        world = World(model, adapters(model, options.layers, Path(state)), Path(state))
        asyncio.run(measure(world, options.methods.split(","), options.layers, options.repeats))


async def measure(world: World, methods: Sequence[str], layers: int, repeats: int) -> None:
    """Run the cases, write each, print the table."""
    modules = len(json.loads((world.folders[0] / "adapter_config.json").read_text())["target_modules"])
    results = []
    for case in (Combination(method, what, modules) for method in methods for what in _UNITS):
        results.append(await run(case, world, repeats))
        settings = {"layers": layers, "linears": modules, "rank": RANK, "threads": torch.get_num_threads()}
        report.write(RESULTS, report.document(results[-1], settings, machine()))
    print(report.table(results))


def adapters(model: str, layers: int, state: Path) -> list[Path]:
    """Two adapters on all linears of the first layers."""
    shapes = {name: shape for name, shape in linears(model).items() if int(name.split(".")[2]) < layers}
    made = Adapters(state / "adapters", shapes)
    folders = [made.folder(seed) for seed in (1, 2)]
    for folder in folders:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": sorted(shapes)}))
    return folders


def linears(model: str) -> dict[str, tuple[int, int]]:
    """(in, out) of the linears in the model's layers, by path; nothing is loaded."""
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return {
        name: (module.in_features, module.out_features)
        for name, module in bare.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers.")
    }


if __name__ == "__main__":
    main()
