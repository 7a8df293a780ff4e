"""The peers' end of the pipe: one command at a time, and how long it took.

Owns the line protocol, a JSON object a line on stdin, {"seconds": S} a line on stdout, and the
clock, which runs in the peer's process and not around the pipe. Plain Python: it also runs in
environments that have nothing of Lorry's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What clocks show: the wall's time, or the CPU time of this process, which a busy machine disturbs less.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK_VARIABLE = "LORRY_BENCH_CLOCK"
_now = CLOCKS[os.environ.get(CLOCK_VARIABLE, "wall")]


def answer(start: Callable[[], object]) -> None:
    """Start the peer, then answer commands until stdin ends: `do` names a method, the rest its arguments."""
    # Whatever the peer's libraries print goes to the log; the answers have the pipe for themselves.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        peer = start()
        print(json.dumps({"seconds": 0.0}), file=answers, flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            seconds = getattr(peer, command.pop("do"))(**command)
            print(json.dumps({"seconds": seconds}), file=answers, flush=True)


def demand(got: int, expected: int) -> None:
    """Raise RuntimeError where an answer is shorter or longer than was asked for."""
    if got != expected:
        raise RuntimeError(f"expected {expected} new tokens, got {got}")


@contextmanager
def clock() -> Iterator[Callable[[], float]]:
    """The seconds of the block, to be asked for behind it."""
    began = _now()
    ended = began
    try:
        yield lambda: ended - began
    finally:
        ended = _now()
