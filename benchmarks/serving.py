"""`make bench`, `bench-vllm`, `bench-llama`: what the README claims, measured beside a peer on this machine.

Owns the order: cases one after the other, ours and the peer's in turns, medians at the end. Does
not know what a case does. `python -m benchmarks.serving --peers peft --cases B,D,E --repeats 5`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.answering import CLOCKS
from benchmarks.cases import cases
from benchmarks.measuring import machine
from benchmarks.peer import KINDS
from benchmarks.running import Measurable, run, say
from benchmarks.world import DTYPE, QUICK, THREADS, Scale, Sides, World, world
from compute_worker.engine.loading import has_bfloat16
from demo.model import ensure_model
from demo.pair import end_on_signals

_DTYPES = ("bfloat16", "float16", "float32")
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. A case is written as soon as it is measured."""
    options = parser().parse_args(arguments)
    end_on_signals()
    scale, repeats = (QUICK, 1) if options.quick else (Scale(), 3)
    model = os.environ.get("MODEL") or str(ensure_model())
    for sides, chosen in runs(options):
        into = folder(options, sides)
        with tempfile.TemporaryDirectory(prefix="lorry-benchmarks-") as state:
            asyncio.run(measure(model, sides, chosen, scale, options.repeats or repeats, Path(state), into))
        print(f"written to {into}")


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    made.add_argument("--peers", type=_peers, default=["peft"], help=f"measured beside us, of {','.join(KINDS)}")
    made.add_argument("--cases", type=_names, default=[], help="of those that the peers take part in; all by default")
    made.add_argument("--repeats", type=_positive, help="of each case, for the median; 3, or 1 with --quick")
    made.add_argument("--dtype", choices=_DTYPES[::2], help=f"what ours stores; {DTYPE} by default")
    made.add_argument("--peer-dtype", choices=_DTYPES, help="of the peer's; what it is fast at here by default")
    made.add_argument(
        "--threads", type=_positive, default=THREADS, help="of both sides; with 1 a busy machine disturbs less"
    )
    made.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: by CPU time of either side's process")
    made.add_argument("--quick", action="store_true", help="once and small: whether it works, not how fast")
    return made


def runs(options: argparse.Namespace) -> list[tuple[Sides, list[Measurable[World]]]]:
    """Each peer with the cases that it takes part in. Ends the process where none does in a case that is asked for."""
    every = [(sides, cases(sides)) for sides in (_sides(options, name) for name in options.peers)]
    known = {name for _, of_peer in every for name in of_peer}
    if unknown := set(options.cases) - known:
        parser().error(f"--cases: expected some of {','.join(sorted(known))}, got {','.join(sorted(unknown))}")
    chosen = [(sides, [of_peer[n] for n in options.cases or of_peer if n in of_peer]) for sides, of_peer in every]
    return [(sides, of_peer) for sides, of_peer in chosen if of_peer]


def _sides(options: argparse.Namespace, name: str) -> Sides:
    kind = KINDS[name]
    theirs = options.peer_dtype or ("bfloat16" if has_bfloat16() else kind.dtype)
    return Sides(options.dtype or DTYPE, kind, theirs, options.threads, options.clock)


def folder(options: argparse.Namespace, sides: Sides) -> Path:
    """Where results go: PEER, behind it types, threads and clock where others than the default were asked for."""
    types = f"-{sides.dtype}-{sides.peer_dtype}" if options.dtype or options.peer_dtype else ""
    threads = f"-threads{sides.threads}" if sides.threads != THREADS else ""
    clock = f"-{sides.clock}" if sides.clock != "wall" else ""
    return RESULTS / ("quick" if options.quick else "") / f"{sides.kind.name}{types}{threads}{clock}"


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _peers(text: str) -> list[str]:
    if unknown := set(_names(text)) - KINDS.keys():
        raise argparse.ArgumentTypeError(f"expected some of {','.join(KINDS)}, got {','.join(sorted(unknown))}")
    return _names(text)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


async def measure(
    model: str, sides: Sides, chosen: Sequence[Measurable[World]], scale: Scale, repeats: int, state: Path, into: Path
) -> None:
    """Start both sides, run the cases, print the table."""
    say(f"starting registry, worker and {sides.kind.title} ...")
    results = []
    async with world(model, sides, scale, state) as both:
        for case in chosen:
            results.append(await run(case, both, repeats))
            report.write(into, report.document(results[-1], scale.settings(sides), machine()))
    print(report.table(results))


if __name__ == "__main__":
    main()
