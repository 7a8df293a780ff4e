"""`make bench-sweeps`: our rate along one axis: number of adapters, ranks, kinds of selection.

Owns the points and the closed loop: IN_FLIGHT requests at any time. Nothing is compared with a peer;
what a point is measured against are its neighbours. `python -m benchmarks.sweeps --only ranks`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.adapters import RANK
from benchmarks.measuring import Quiet, machine
from benchmarks.peer import KINDS
from benchmarks.report import shown
from benchmarks.running import say
from benchmarks.serving import RESULTS
from benchmarks.world import DTYPE, POOL_ADAPTERS, PROMPT_TOKENS, Scale, Sides, World, name_of, world
from demo.model import ensure_model
from demo.pair import end_on_signals

IN_FLIGHT = 32
NEW_TOKENS = 32
# Each of the requests in flight is followed by one more: the second half begins while others are in their midst.
REQUESTS = 2 * IN_FLIGHT
COUNTS = (1, 2, 4, 8, 16, 32, 64, 256)
RANKS = (4, 8, 16, 32, 64, 128)
# So many adapters of the largest rank fill the pool.
OF_A_RANK = POOL_ADAPTERS * RANK // max(RANKS)
_RANK_SEEDS = 5_000
_SEED = 1


@dataclass(frozen=True, slots=True)
class Adapter:
    """A random adapter, as World.publish takes it."""

    seed: int
    rank: int = RANK
    dora: bool = False

    @property
    def name(self) -> str:
        """In the registry."""
        return name_of(self.seed, self.rank, dora=self.dora)


@dataclass(frozen=True, slots=True)
class Point:
    """One measured load. selections: one a request, None for the base. resident: in the pool before it begins."""

    series: str
    at: str
    selections: Sequence[Mapping[str, float] | None]
    resident: Sequence[Adapter]


def adapters() -> Iterator[Point]:
    """Requests over more and more adapters, all equally popular or by Zipf's law."""
    for count in COUNTS:
        known = [Adapter(seed) for seed in range(count)]
        for series, shares in (("uniform", [1.0] * count), ("zipf", [1 / (1 + i) for i in range(count)])):
            drawn = random.Random(_SEED).choices(known, shares, k=REQUESTS)  # noqa: S311 - a load, no secret
            yield Point(series, str(count), [{one.name: 1.0} for one in drawn], known[:POOL_ADAPTERS])


def ranks() -> Iterator[Point]:
    """The same number of adapters of one rank, of another, and of all ranks at once."""
    for rank in RANKS:
        yield _in_turn("one rank", str(rank), [Adapter(_RANK_SEEDS + i, rank) for i in range(OF_A_RANK)])
    yield _in_turn("mixed", "4 to 128", [Adapter(_RANK_SEEDS + i, rank) for i, rank in enumerate((4, 16, 64, 128))])


def kinds() -> Iterator[Point]:
    """What a request may ask for: the base, one adapter, a weighted pair, a DoRA adapter."""
    single = [Adapter(seed) for seed in range(OF_A_RANK)]
    other = [Adapter(OF_A_RANK + seed) for seed in range(OF_A_RANK)]
    pairs = [{a.name: 0.7, b.name: 0.3} for a, b in zip(single, other, strict=True)]
    yield Point("kind", "base", [None] * REQUESTS, single)
    yield _in_turn("kind", "LoRA", single)
    yield Point("kind", "weighted pair", [pairs[i % OF_A_RANK] for i in range(REQUESTS)], [*single, *other])
    yield _in_turn("kind", "DoRA", [Adapter(seed, dora=True) for seed in range(OF_A_RANK)])


def _in_turn(series: str, at: str, known: Sequence[Adapter]) -> Point:
    return Point(series, at, [{known[i % len(known)].name: 1.0} for i in range(REQUESTS)], known)


SWEEPS: dict[str, Callable[[], Iterator[Point]]] = {"adapters": adapters, "ranks": ranks, "kinds": kinds}


async def rate(around: World, point: Point) -> float:
    """New tokens a second of a point's requests, IN_FLIGHT of them at any time."""
    for adapter in point.resident:
        await around.worker.load(adapter.name)
    prompts = around.prompts.fresh(len(point.selections), PROMPT_TOKENS)
    waiting = iter(list(zip(prompts, point.selections, strict=True)))

    async def caller() -> None:
        for prompt, selection in waiting:
            await around.answer(prompt, selection, NEW_TOKENS)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return len(prompts) * NEW_TOKENS / (time.perf_counter() - began)


async def sweep(around: World, name: str, repeats: int) -> dict[str, object]:
    """One sweep as its JSON document; points in turns, so that what disturbs for a while disturbs all."""
    points = list(SWEEPS[name]())
    for known in {adapter for point in points for adapter in point.resident} | _drawn(name):
        await around.publish(known.seed, known.rank, dora=known.dora)
    await rate(around, points[0])
    quiet = Quiet()
    values: list[list[float]] = [[] for _ in points]
    for _ in range(repeats):
        for point, of_point in zip(points, values, strict=True):
            with quiet.watched():
                of_point.append(await rate(around, point))
            say(f"  {name}: {point.series} {point.at}: {shown(of_point[-1])} tok/s")
    measured = [
        {"series": point.series, "at": point.at, "rate": median(of_point), "runs": of_point}
        for point, of_point in zip(points, values, strict=True)
    ]
    return {"sweep": name, "unit": "tok/s", "points": measured, "repeats": repeats, "cpu_share": quiet.share}


def _drawn(name: str) -> set[Adapter]:
    """What the points of a sweep may ask for and do not hold at their beginning."""
    return {Adapter(seed) for seed in range(max(COUNTS))} if name == "adapters" else set()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    options = _parser().parse_args(arguments)
    end_on_signals()
    model = os.environ.get("MODEL") or str(ensure_model())
    with tempfile.TemporaryDirectory(prefix="lorry-benchmarks-") as state:
        asyncio.run(_measure(model, options, Path(state)))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description=__doc__)
    made.add_argument("--only", choices=list(SWEEPS), help="one of them; all by default")
    made.add_argument("--repeats", type=int, default=3, help="of each point, for the median")
    made.add_argument("--dtype", choices=("bfloat16", "float32"), default=DTYPE, help="%(default)s here")
    made.add_argument("--into", type=Path, default=RESULTS / "sweeps", help="folder of the results")
    return made


async def _measure(model: str, options: argparse.Namespace, state: Path) -> None:
    sides = Sides(options.dtype, KINDS["peft"], options.dtype)  # a peer that is never asked never starts
    settings = {"in_flight": IN_FLIGHT, "requests": REQUESTS, "new_tokens": NEW_TOKENS, "dtype": options.dtype}
    options.into.mkdir(parents=True, exist_ok=True)
    async with world(model, sides, Scale(), state) as around:
        for name in [options.only] if options.only else SWEEPS:
            document = await sweep(around, name, options.repeats)
            document |= {"settings": settings | {"prompt_tokens": PROMPT_TOKENS, "rank": RANK}, "machine": machine()}
            (options.into / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
            print(f"{name}: written to {options.into}, others' CPU {document['cpu_share']:.0%}")


if __name__ == "__main__":
    main()
