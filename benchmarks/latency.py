"""`make bench-latency`: how long the first token and the next ones take while requests arrive as they please.

Owns the open loop: capacity measured first with IN_FLIGHT requests at any time, then Poisson arrivals at
shares of it, with short prompts alone and with long ones among them. Nothing is compared with a peer.
`python -m benchmarks.latency --requests 100`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from benchmarks.adapters import RANK
from benchmarks.measuring import Quiet, machine
from benchmarks.peer import KINDS
from benchmarks.running import say
from benchmarks.serving import RESULTS
from benchmarks.world import DTYPE, PROMPT_TOKENS, Scale, Sides, World, world
from demo.model import ensure_model
from demo.pair import end_on_signals

IN_FLIGHT = 32
NEW_TOKENS = 32
ADAPTERS = 8
SHARES = (0.5, 0.8, 0.95)
# One prompt in so many is long, and how long: each takes as much of the worker as twelve of the short ones do.
LONG_EVERY, LONG_TOKENS = 16, 1024
_SEED = 1


@dataclass(slots=True)
class Times:
    """Seconds from arrival to the first token, and between two messages, each of a token or of a draft's right ones."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, dict[str, float]]:
        """Median and 99th percentile of both, in milliseconds."""
        return {"first_ms": _spread(self.first), "between_ms": _spread(self.between)}


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}


def arrivals(rate: float, count: int) -> Iterator[float]:
    """Moments of a Poisson process of `rate` a second, from 0 on."""
    draw, moment = random.Random(_SEED), 0.0  # noqa: S311 - a load, no secret
    for _ in range(count):
        yield moment
        moment += draw.expovariate(rate)


def prompts(around: World, count: int, *, long: bool) -> list[list[int]]:
    """Fresh ones; where `long`, one in LONG_EVERY is."""
    made = around.prompts.fresh(count, LONG_TOKENS)
    return [one if long and n % LONG_EVERY == 0 else one[:PROMPT_TOKENS] for n, one in enumerate(made)]


async def ask(around: World, prompt: Sequence[int], adapter: str, times: Times) -> None:
    """One request, its times added."""
    last, made = time.perf_counter(), 0
    async for message in around.worker.generate(
        tokens=prompt, adapters=adapter, max_new_tokens=NEW_TOKENS, ignore_eos=True
    ):
        if message.delta.token_ids:
            now = time.perf_counter()
            (times.between if made else times.first).append(now - last)
            last, made = now, made + len(message.delta.token_ids)
    if made != NEW_TOKENS:
        raise RuntimeError(f"expected {NEW_TOKENS} tokens, got {made}")


async def capacity(around: World, adapters: Sequence[str], *, long: bool) -> float:
    """Requests a second, IN_FLIGHT of them at any time."""
    waiting = iter(list(enumerate(prompts(around, 3 * IN_FLIGHT, long=long))))

    async def caller() -> None:
        for n, prompt in waiting:
            await ask(around, prompt, adapters[n % len(adapters)], Times())

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return 3 * IN_FLIGHT / (time.perf_counter() - began)


async def load(around: World, adapters: Sequence[str], rate: float, count: int, *, long: bool) -> Times:
    """So many requests, arriving at `rate` a second whether or not the earlier ones have been answered."""
    times = Times()
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for n, (moment, prompt) in enumerate(
            zip(arrivals(rate, count), prompts(around, count, long=long), strict=True)
        ):
            await asyncio.sleep(began + moment - time.perf_counter())
            tasks.create_task(ask(around, prompt, adapters[n % len(adapters)], times))
    return times


async def measure(around: World, count: int) -> dict[str, object]:
    """Every load as the JSON document."""
    adapters = [await around.publish(seed) for seed in range(ADAPTERS)]
    for name in adapters:
        await around.worker.load(name)
    quiet, points = Quiet(), []
    await capacity(around, adapters, long=False)  # warm
    for mix, long in (("short", False), ("some long", True)):
        with quiet.watched():
            most = await capacity(around, adapters, long=long)
        for share in SHARES:
            with quiet.watched():
                times = await load(around, adapters, share * most, count, long=long)
            points.append({"prompts": mix, "share": share, "requests_per_s": share * most, **times.summary()})
            say(f"  {mix}, {share:.0%} of {most:.1f}/s: {times.summary()}")
    return {"points": points, "requests": count, "cpu_share": quiet.share, "machine": machine()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    made.add_argument("--requests", type=int, default=200, help="at each load; %(default)s")
    made.add_argument("--dtype", choices=("bfloat16", "float32"), default=DTYPE, help="%(default)s here")
    made.add_argument("--into", type=Path, default=RESULTS / "latency.json", help="file of the results")
    options = made.parse_args(arguments)
    end_on_signals()
    model = os.environ.get("MODEL") or str(ensure_model())
    with tempfile.TemporaryDirectory(prefix="lorry-benchmarks-") as state:
        asyncio.run(_run(model, options, Path(state)))


async def _run(model: str, options: argparse.Namespace, state: Path) -> None:
    sides = Sides(options.dtype, KINDS["peft"], options.dtype)  # a peer that is never asked never starts
    settings = {"in_flight": IN_FLIGHT, "new_tokens": NEW_TOKENS, "prompt_tokens": PROMPT_TOKENS, "rank": RANK}
    settings |= {"adapters": ADAPTERS, "long_every": LONG_EVERY, "long_tokens": LONG_TOKENS, "dtype": options.dtype}
    async with world(model, sides, Scale(), state) as around:
        document = await measure(around, options.requests) | {"settings": settings}
    options.into.parent.mkdir(parents=True, exist_ok=True)
    options.into.write_text(json.dumps(document, indent=2) + "\n")
    print(f"written to {options.into}, others' CPU {document['cpu_share']:.0%}")


if __name__ == "__main__":
    main()
