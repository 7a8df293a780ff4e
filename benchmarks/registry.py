"""`make bench-registry`: the registry beside raw TCP, beside boto3, and beside itself with few versions.

Owns which cases there are, and their order. Does not know what a case does.
`python -m benchmarks.registry --cases download-files,resolve-s3 --repeats 5`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.measuring import Result, machine
from benchmarks.registry_bytes import Download, Memory, Read, Upload
from benchmarks.registry_rows import Deletion, Resolve, lists
from benchmarks.registry_world import CACHED, PLACES, QUICK, Scale, World, world
from benchmarks.running import Measurable, run
from lorry.rpc.malloc import keep_memory

RESULTS = Path(__file__).resolve().parent / "results" / "registry"


def cases() -> dict[str, Measurable[World]]:
    """All cases by name."""
    found: list[Measurable[World]] = []
    for place in PLACES:
        found += [Read(place), Download(place)]
        if place != CACHED:
            found += [Upload(place), Memory(place), Resolve(place, slowest=False), Resolve(place, slowest=True)]
            found += [*lists(place), Deletion(place)]
    return {case.claim.name: case for case in found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser().parse_args(arguments)
    keep_memory()  # as the command `lorry` does
    known = cases()
    chosen = [known[name] for name in options.cases or known]
    scale, repeats, into = (QUICK, 1, RESULTS / "quick") if options.quick else (Scale(), 3, RESULTS)
    with tempfile.TemporaryDirectory(prefix="lorry-benchmarks-") as state:
        results = asyncio.run(measure(chosen, scale, options.repeats or repeats, Path(state), into))
    print(report.table(results))
    print(f"written to {into}")


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.registry", description=__doc__)
    made.add_argument("--cases", type=names, default=[], help=f"some of {','.join(cases())}; all by default")
    made.add_argument("--repeats", type=int, help="of each case, for the median; 3, or 1 with --quick")
    made.add_argument("--quick", action="store_true", help="once and small: whether it works, not how fast")
    return made


def names(text: str) -> list[str]:
    """Cases of a list with commas. Raises ArgumentTypeError where there is no such case."""
    chosen = [name for name in text.split(",") if name]
    unknown = set(chosen) - cases().keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(cases())}, got {','.join(sorted(unknown))}")
    return chosen


async def measure(
    chosen: Sequence[Measurable[World]], scale: Scale, repeats: int, state: Path, into: Path
) -> list[Result]:
    """Run the cases. Each is written down once it is done, so that a run that is cut has what came before."""
    results = []
    async with world(scale, state) as around:
        for case in chosen:
            results.append(await run(case, around, repeats))
            report.write(into, report.document(results[-1], scale.settings(), machine()))
    return results


if __name__ == "__main__":
    main()
