"""Operations under faults: each meets one kind, drawn by seeded dice, and how it ended is counted.

Owns which operation meets which fault, the deadline of each, and the figures. Does not know what the
operations do, nor whether what they left is right.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from lorry.errors import Internal, LorryError
from tests.chaos.s3.lane import Lane, Work
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_proxy_faults import Fault, Kind, Plan

# Of an operation, right or wrong. Far beyond what retries take: for a machine that has other things to do.
DEADLINE = 90.0
# Operation, how often it is drawn, and the requests to S3 of which a fault picks its first.
_SENDING = {"push_small": (6, 12), "push_large": (2, 16), "upload": (6, 6), "resume": (1, 16)}
_OTHERS = {"pull": (4, 4), "delete": (2, 6), "collect": (1, 3), "check": (1, 6)}
_IN_PARTS = {"push_large": (2, 2), "resume": (1, 2)}
_FITTING = {Kind.CUT_UP: _SENDING, Kind.WRONG_UP: _SENDING, Kind.ERROR_IN_200: _IN_PARTS}
# Requests in a row: one or two are repeated by the S3 client, three fail its call, a dozen the operation.
_COUNTS = (1, 1, 1, 2, 3, 5, 12)
# Each of them takes as long as the S3 client waits.
_HANGS = (1, 1, 1, 3)
# Of an operation that failed and is done again, soundly.
_TRIES = 4


@dataclass
class Row:
    """Of the operations that met a fault: how many requests, and how they ended. failed: by class of error."""

    requests: int = 0
    well: int = 0
    failed: Counter[str] = field(default_factory=Counter)


@dataclass
class Tally:
    """rows: by kind. untyped: what broke the promise that every failure is typed and in time."""

    rows: dict[Kind, Row] = field(default_factory=lambda: {kind: Row() for kind in Kind})
    untyped: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def operations(self) -> int:
        """Those that met a fault."""
        return sum(row.well + row.failed.total() for row in self.rows.values())

    def __str__(self) -> str:
        lines = [f"{'fault':<24}{'requests':>9}{'operations':>11}{'well':>6}  failed, by class"]
        for kind, row in self.rows.items():
            ended = ", ".join(f"{name} {count}" for name, count in row.failed.most_common())
            lines.append(f"{kind.value:<24}{row.requests:>9}{row.well + row.failed.total():>11}{row.well:>6}  {ended}")
        return "\n".join([*lines, f"{self.operations} operations met a fault; the slowest took {self.slowest:.1f} s"])


async def run_lane(lane: Lane, proxy: S3Proxy, bucket: str, wanted: int, tally: Tally) -> None:
    """Operations until so many of all lanes have met a fault. Half of those that failed are done again, soundly."""
    while tally.operations < wanted:
        kind = lane.dice.choice(list(Kind))
        name, fault = _drawn(lane, kind)
        work, plan = getattr(lane, name)(), Plan(fault)
        proxy.plans[bucket] = plan
        error = await _outcome(work, f"{name} under {fault}", tally)
        del proxy.plans[bucket]
        if not plan.met:
            continue
        row = tally.rows[kind]
        row.requests += len(plan.met)
        if error is None:
            row.well += 1
            continue
        row.failed[type(error).__name__] += 1
        if lane.dice.random() < 0.5:
            await _again(work, f"{name} after {fault}", tally)


async def _again(work: Work, what: str, tally: Tally) -> None:
    """Without a fault it has to end well; more than once, where the machine is so slow that S3 seems away."""
    for _ in range(_TRIES):
        error = await _outcome(work, what, tally)
        if error is None:
            return
    tally.stuck.append(f"{what}: {error!r}")


def _drawn(lane: Lane, kind: Kind) -> tuple[str, Fault]:
    dice, fitting = lane.dice, _FITTING.get(kind, _SENDING | _OTHERS)
    name = dice.choices(list(fitting), [often for often, _ in fitting.values()])[0]
    fault = Fault(
        kind,
        behind=dice.random() < 0.5,
        seed=dice.getrandbits(32),
        # Rather one of the first: an operation that takes fewer requests meets none.
        skip=int(fitting[name][1] * dice.random() ** 2),
        count=dice.choice(_HANGS if kind is Kind.HANG else _COUNTS),
    )
    return name, fault


async def _outcome(work: Work, what: str, tally: Tally) -> LorryError | None:
    """None where it went well. What is no error of Lorry's is noted as such, and counted as Internal."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(DEADLINE):
            await work()
    except LorryError as error:
        if isinstance(error, Internal):
            tally.untyped.append(f"{what}: {error!r}")
        return error
    except TimeoutError:
        tally.untyped.append(f"{what}: not done within {DEADLINE} s")
        return Internal("late")
    finally:
        tally.slowest = max(tally.slowest, time.monotonic() - began)
    return None
