"""`make bench`: what the README claims, measured against PEFT on this machine.

Owns the order: cases one after the other, ours and the peer's in turns, medians at the end. Does
not know what a case does. `python -m benchmarks.serving --cases B,D,E --repeats 5`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.cases import Case, cases
from benchmarks.measuring import Result, machine
from benchmarks.running import run, say
from benchmarks.world import QUICK, Scale, world
from compute_worker.engine.loading import has_bfloat16
from demo.model import ensure_model
from demo.pair import end_on_signals

_DTYPES = ("bfloat16", "float32")
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser().parse_args(arguments)
    end_on_signals()
    known = cases()
    chosen = [known[name] for name in options.cases or known]
    scale, repeats, into = (QUICK, 1, RESULTS / "quick") if options.quick else (Scale(), 3, RESULTS)
    repeats = options.repeats or repeats
    model = os.environ.get("MODEL") or str(ensure_model())
    with tempfile.TemporaryDirectory(prefix="lorry-benchmarks-") as state:
        results = asyncio.run(measure(model, options.dtype, chosen, scale, repeats, Path(state)))
    print(report.table(results))
    for result in results:
        report.write(into, report.document(result, scale.settings(options.dtype), machine()))
    print(f"written to {into}")


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    made.add_argument("--cases", type=names, default=[], help=f"some of {','.join(cases())}; all by default")
    made.add_argument("--repeats", type=_positive, help="of each case, for the median; 3, or 1 with --quick")
    made.add_argument("--dtype", choices=_DTYPES, default=fast_dtype(), help="of both sides; %(default)s here")
    made.add_argument("--quick", action="store_true", help="once and small: whether it works, not how fast")
    return made


def fast_dtype() -> str:
    """The type that this CPU is fast at: without bfloat16 products in hardware, float32 is up to ten times faster."""
    return "bfloat16" if has_bfloat16() else "float32"


def names(text: str) -> list[str]:
    """Cases of a list with commas. Raises ArgumentTypeError where there is no such case."""
    chosen = [name for name in text.split(",") if name]
    unknown = set(chosen) - cases().keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(cases())}, got {','.join(sorted(unknown))}")
    return chosen


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


async def measure(
    model: str, dtype: str, chosen: Sequence[Case], scale: Scale, repeats: int, state: Path
) -> list[Result]:
    """Start both sides, and run the cases."""
    say("starting registry, worker and PEFT ...")
    async with world(model, dtype, scale, state) as both:
        return [await run(case, both, repeats) for case in chosen]


if __name__ == "__main__":
    main()
