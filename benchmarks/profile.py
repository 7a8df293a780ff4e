"""`make profile`: where a decode step's time goes, by kernel, and what the fast executor saves.

Owns the steps and the clock. Runs the engine in this process, without gRPC, on the demo's model or
`MODEL=`; every pool row is written, so that the reading of adapters is real.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.adapters import RANK, Adapters
from benchmarks.measuring import Quiet, machine
from compute_worker.contract import ActiveAdapter, Sampling, StepRow
from compute_worker.engine.admission import EXECUTORS
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.loading import load_base
from demo.model import ensure_model
from lorry.format.bundle import WEIGHTS_NAME, check_bundle

_CONTEXT = 64
_BLOCKS = 8
_STEPS = 9
_MOST = 32
_KERNELS = ("linear", "adapt", "attend", "add_norm", "silu_mul", "argmax")
_INTO = Path(__file__).resolve().parent / "results" / "profile.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = os.environ.get("MODEL") or str(ensure_model())
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    results: list[dict[str, object]] = []
    quiet = Quiet()
    with tempfile.TemporaryDirectory(prefix="lorry-profile-") as state, quiet.watched():
        for executor in options.executors:
            engine = _engine(model, options.dtype, executor, Path(state))
            for batch, adapters in ((b, a) for b in options.batches for a in options.adapters if a <= b):
                results.append(_measured(engine, batch, adapters, clock))
                print(_line(results[-1]), flush=True)
    settings = {"dtype": options.dtype, "threads": options.threads, "context": _CONTEXT, "rank": RANK}
    document = {"settings": settings, "machine": machine(), "cpu_share": quiet.share, "steps": results}
    options.into.write_text(json.dumps(document, indent=2) + "\n")
    print(f"others' CPU {quiet.share:.0%}; written to {options.into}")


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    made.add_argument("--executors", type=lambda text: text.split(","), default=list(reversed(EXECUTORS)))
    made.add_argument("--batches", type=_numbers, default=[1, 8, 32])
    made.add_argument("--adapters", type=_numbers, default=[0, 1, 8, 32])
    made.add_argument("--into", type=Path, default=_INTO)
    return made


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _engine(model: str, dtype: str, executor: str, state: Path) -> TransformersEngine:
    base = load_base(model, "cpu", dtype)
    engine = TransformersEngine(base, Budgets(768 << 20, 512 << 20), executor)
    folder = Adapters(state, {m.name: (m.in_features, m.out_features) for m in engine.base.modules}).folder(0)
    adapter = engine.read(folder / WEIGHTS_NAME, check_bundle(folder).facts)
    for place in range(_MOST):
        engine.install(adapter, place * RANK)
    return engine


def _measured(engine: TransformersEngine, batch: int, adapters: int, clock: Callable[[], float]) -> dict[str, object]:
    """One kind of step: the first ones fill the KV and warm up."""
    steps = _steps(batch, adapters)
    for _ in range(2):
        engine.step(next(steps))
    times = []
    with _watching(engine, clock) as pieces:
        for _ in range(_STEPS):
            began = clock()
            engine.step(next(steps))
            times.append(1_000 * (clock() - began))
    return {
        "executor": engine.executor,
        "batch": batch,
        "adapters": adapters,
        "step_ms": median(times),
        "spread_ms": max(times) - min(times),
        "pieces_ms": {name: 1_000 * seconds / _STEPS for name, seconds in pieces.items()},
    }


def _steps(batch: int, adapters: int) -> Iterator[list[StepRow]]:
    """A step of all prompts, then decode steps without end."""
    prompts = [[100 + 7 * seat + index for index in range(_CONTEXT)] for seat in range(batch)]
    yield [_row(seat, adapters, prompt, 0) for seat, prompt in enumerate(prompts)]
    for position in range(_CONTEXT, _BLOCKS * 16):
        yield [_row(seat, adapters, [500 + seat + position], position) for seat in range(batch)]


def _row(seat: int, adapters: int, tokens: list[int], position: int) -> StepRow:
    blocks = tuple(range(_BLOCKS * seat, _BLOCKS * (seat + 1)))
    active = (ActiveAdapter(RANK * (seat % adapters), RANK, 1.0),) if adapters else ()
    return StepRow(tokens, position, blocks, active, Sampling(), tokens, 0)


class _watching:  # noqa: N801 - used as a function
    """Within the block, seconds of each kernel of the fast executor; nothing for the general one."""

    def __init__(self, engine: TransformersEngine, clock: Callable[[], float]) -> None:
        self._kernels: Any = getattr(engine._executor, "_kernels", None)  # noqa: SLF001 - nobody else looks inside
        self._clock = clock
        self._seconds: dict[str, float] = defaultdict(float)

    def __enter__(self) -> dict[str, float]:
        for name in _KERNELS if self._kernels else ():
            setattr(self._kernels, name, self._timed(name, getattr(self._kernels, name)))
        return self._seconds

    def __exit__(self, *_: object) -> None:
        for name in _KERNELS if self._kernels else ():
            delattr(self._kernels, name)

    def _timed(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: object) -> object:
            began = self._clock()
            answer = kernel(*arguments)
            self._seconds[name] += self._clock() - began
            return answer

        return timed


def _line(result: dict[str, Any]) -> str:
    pieces = "  ".join(f"{name} {value:.1f}" for name, value in result["pieces_ms"].items())
    return (
        f"{result['executor']:>14}  batch {result['batch']:>2}  adapters {result['adapters']:>2}  "
        f"step {result['step_ms']:6.1f} ms  spread {result['spread_ms']:5.1f}  {pieces}"
    )


if __name__ == "__main__":
    main()
