"""Answers along the line between two adapters: the same request under weights that go from one to the other.

Owns the points of the line. The requests run at the same time, so that the worker has them in one
batch; nothing is combined for it. Does not know what is asked, nor what a weight does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from lorry.errors import InvalidInput
from lorry.generation import WHOLE, GenerateOptions, Generation

# Two ends at least; more points than a worker's batch has places would only wait.
_MOST_STEPS = 64
# As the worker's own: languages without unsigned integers can send it back.
_SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class Point:
    """An answer. position: 0 is the first adapter alone, 1 the second. weights: what it was made with."""

    position: float
    weights: dict[str, float]
    text: str


async def along(
    first: str, second: str, steps: int, options: GenerateOptions, ask: Callable[[GenerateOptions], Generation]
) -> list[Point]:
    """Ask at `steps` points, evenly spaced, with both ends. `ask` takes the options with what serves each point.

    Where something is drawn, it is drawn with one seed. Raises InvalidInput, and what the worker raises.
    """
    if not 2 <= steps <= _MOST_STEPS:  # noqa: PLR2004 - both ends
        raise InvalidInput(f"steps: expected 2 to {_MOST_STEPS}, got {steps}")
    if options.get("adapters") is not None or options.get("route") is not None:
        raise InvalidInput("expected two adapters and nothing else that serves, got more")
    given, seed = options.get("seed"), secrets.randbits(_SEED_BITS)
    positions = [step / (steps - 1) for step in range(steps)]
    weights = [_weights(first, second, position) for position in positions]
    same: GenerateOptions = {**options, "seed": seed if given is None else given, "stream_interval": WHOLE}
    asked = [ask({**same, "adapters": pair}) for pair in weights]
    tasks = [asyncio.ensure_future(generation.text()) for generation in asked]
    try:
        texts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [Point(*point) for point in zip(positions, weights, texts, strict=True)]


def _weights(first: str, second: str, position: float) -> dict[str, float]:
    """An end is an adapter alone: a weight of 0 would still be a pull and a lease."""
    return {name: weight for name, weight in ((first, 1 - position), (second, position)) if weight}
