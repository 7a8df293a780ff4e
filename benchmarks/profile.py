"""`make profile`: where a step's time goes, by kernel, what the fast executor saves, and how near to the bound it is.

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
from benchmarks.bounds import Bounds, measured
from benchmarks.measuring import Quiet, machine
from compute_worker.contract import ActiveAdapter, Sampling, StepRow
from compute_worker.engine.admission import EXECUTORS
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.kernels import Step
from compute_worker.engine.loading import load_base, stored_as
from compute_worker.engine.native import WITH_PAIRS, NativeProgram, library
from demo.model import ensure_model
from lorry.format.bundle import WEIGHTS_NAME, check_bundle

_CONTEXT = 64
_BLOCKS = 8
_STEPS = 9
_MOST = 32
_OF_A_MULTIPLY = 2  # a multiplication and an addition
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
        bounds = _bounds(options, clock)
        for dtype, executor in ((d, e) for d in options.dtypes for e in options.executors):
            engine = _engine(model, dtype, executor, Path(state))
            for batch, adapters in ((b, a) for b in options.batches for a in options.adapters if a <= b):
                results.append(_measured(engine, batch, adapters, clock) | {"dtype": dtype})
                if bounds:
                    results[-1] |= _bound(engine, bounds[dtype], results[-1])
                print(_line(results[-1]), flush=True)
    settings = {"threads": options.threads, "context": _CONTEXT, "rank": RANK}
    probed = {
        dtype: {"read_gb_s": each.read / 1e9, "multiply_gflop_s": each.multiply / 1e9} for dtype, each in bounds.items()
    }
    document = {
        "settings": settings,
        "machine": machine(),
        "cpu_share": quiet.share,
        "bounds": probed,
        "steps": results,
    }
    options.into.write_text(json.dumps(document, indent=2) + "\n")
    print(f"others' CPU {quiet.share:.0%}; written to {options.into}")


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    made.add_argument("--dtypes", type=lambda text: text.split(","), default=["float32", "bfloat16"])
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    made.add_argument("--executors", type=lambda text: text.split(","), default=list(reversed(EXECUTORS)))
    made.add_argument("--batches", type=_numbers, default=[1, 8, 32])
    made.add_argument("--adapters", type=_numbers, default=[0, 1, 8, 32])
    made.add_argument("--into", type=Path, default=_INTO)
    return made


def _bounds(options: argparse.Namespace, clock: Callable[[], float]) -> dict[str, Bounds]:
    """What the hardware allows in each type: nothing where there are no native kernels to probe with."""
    path = library()
    if path is None:
        return {}
    pairs = {dtype: dtype == "bfloat16" and path.stem.endswith(WITH_PAIRS) for dtype in options.dtypes}
    return {dtype: measured(path, options.threads, clock, pairs=pairs[dtype]) for dtype in options.dtypes}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _engine(model: str, dtype: str, executor: str, state: Path) -> TransformersEngine:
    base = load_base(model, "cpu", dtype)
    engine = TransformersEngine(base, Budgets(768 << 20, 512 << 20), executor, stored_as(dtype, "cpu"))
    folder = Adapters(state, {m.name: (m.in_features, m.out_features) for m in engine.base.modules}).folder(0)
    adapter = engine.read(folder / WEIGHTS_NAME, check_bundle(folder).facts)
    for place in range(_MOST):
        engine.install(adapter, place * RANK)
    return engine


def _measured(engine: TransformersEngine, batch: int, adapters: int, clock: Callable[[], float]) -> dict[str, object]:
    """One kind of step: the first ones fill the KV and warm up."""
    steps = _steps(batch, adapters)
    began = clock()
    engine.step(next(steps))
    prefill = clock() - began
    engine.step(next(steps))
    times = []
    for _ in range(_STEPS):
        began = clock()
        engine.step(next(steps))
        times.append(1_000 * (clock() - began))
    with _by_operation(clock) as pieces:
        engine.step(next(steps))
    return {
        "executor": engine.executor,
        "batch": batch,
        "adapters": adapters,
        "prefill_ms": 1_000 * prefill,
        "step_ms": median(times),
        "best_ms": min(times),
        "spread_ms": max(times) - min(times),
        "pieces_ms": {name: 1_000 * seconds for name, seconds in pieces.items()},
    }


def _bound(engine: TransformersEngine, bounds: Bounds, result: dict[str, Any]) -> dict[str, float]:
    """The least that a step can take, and the share of it that was reached: keys and values left out."""
    base = sum(module.in_features * module.out_features for module in engine.base.modules)
    rows = RANK * engine.limits.row_bytes
    itemsize = 2 if engine.dtype == "bfloat16" else 4
    # The demo's model was published in bfloat16, so that its weights take two bytes in either type.
    nbytes = 2 * base + result["adapters"] * rows
    active = bool(result["adapters"]) * rows / itemsize
    operations = _OF_A_MULTIPLY * result["batch"] * (base + active)
    seconds = bounds.of(nbytes, operations)
    return {"bound_ms": 1_000 * seconds, "share_of_bound": 1_000 * seconds / result["best_ms"]}


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


class _by_operation:  # noqa: N801 - used as a function
    """Within the block, the fast executor runs its operations one by one: seconds of each kind; else nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._run = NativeProgram.run

    def __enter__(self) -> dict[str, float]:
        seconds: dict[str, float] = defaultdict(float)

        def run(program: NativeProgram, step: Step) -> None:
            for index, name in enumerate(program.names):
                began = self._clock()
                program.run_one(index, step)
                seconds[name] += self._clock() - began

        NativeProgram.run = run  # type: ignore[assignment, method-assign] # for the block alone
        return seconds

    def __exit__(self, *_: object) -> None:
        NativeProgram.run = self._run  # type: ignore[method-assign]


def _line(result: dict[str, Any]) -> str:
    pieces = "  ".join(f"{name} {value:.1f}" for name, value in result["pieces_ms"].items())
    return (
        f"{result['executor']:>12} {result['dtype']:>8}  batch {result['batch']:>2}  adapters {result['adapters']:>2}  "
        f"prefill {result['prefill_ms']:6.0f}  step {result['step_ms']:6.1f} ms  best {result['best_ms']:6.1f}  "
        f"of bound {result.get('share_of_bound', 0):4.0%}  {pieces}"
    )


if __name__ == "__main__":
    main()
