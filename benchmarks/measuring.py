"""What is made of measured values: medians, ratios, and how quiet the machine was.

Owns the result of a case and the share of the CPU that went to processes that are not ours. Does
not know what was measured.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

# Kinds of CPU time in which nobody computes, and those that the kernel counts under another name already.
_NOT_BUSY = {"idle", "iowait", "guest", "guest_nice"}
# CPU seconds from which on shares of them are told: the kernel counts in ticks of 10 ms, for each process and core.
_TOLD = 0.5


@dataclass(frozen=True, slots=True)
class Claim:
    """What a case measures. name: as on the command line and in the file's name.

    higher: whether the larger value is the better one. peer: who is measured beside us. ours: what is to be
    known about our side, such as its type of weights.
    """

    name: str
    title: str
    unit: str
    peer: str
    higher: bool
    ours: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A case as it was measured: the values of every repeat, ours and the peer's.

    cpu_share: of the machine's CPU time during the repeats, what went to others, 0 to 1.
    """

    claim: Claim
    ours: Sequence[float]
    peer: Sequence[float]
    cpu_share: float

    @property
    def ratio(self) -> float:
        """How many times better than the peer we are, by medians; above 1 we win, whatever the unit."""
        ours, peer = median(self.ours), median(self.peer)
        return ours / peer if self.claim.higher else peer / ours


@dataclass(slots=True)
class Quiet:
    """Adds up, over the blocks under `watched`, how much CPU time there was and how much of it others took."""

    total: float = field(default=0.0)
    others: float = field(default=0.0)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count the time of this block."""
        began, busy, own = time.perf_counter(), _busy_seconds(), own_seconds()
        yield
        self.total += (time.perf_counter() - began) * _cores()
        self.others += max(0.0, (_busy_seconds() - busy) - (own_seconds() - own))

    @property
    def share(self) -> float:
        """0 where the machine was ours alone, or too little time was watched to tell; 1 where others had all of it."""
        return min(1.0, self.others / self.total) if self.total >= _TOLD else 0.0


def own_seconds() -> float:
    """CPU seconds that this process and its descendants have used so far, those included that have ended."""
    me = psutil.Process()
    return sum(_seconds(process) for process in (me, *me.children(recursive=True)))


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants, shared pages counted in each."""
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def process_seconds(pid: int) -> float:
    """CPU seconds that a process and its ended children have used so far."""
    return _seconds(psutil.Process(pid))


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _busy_seconds() -> float:
    """CPU seconds of the whole machine in which somebody computed, time stolen by its neighbours included."""
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for kind, seconds in times.items() if kind not in _NOT_BUSY))


def _cores() -> int:
    return psutil.cpu_count() or 1


# What a CPU computes with, best first: it decides which kernels run, and which type peers are fastest in.
_VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def machine() -> dict[str, str | int]:
    """What the values were measured on."""
    return {
        "cpu": _of_cpu("model name") or platform.machine(),
        "vectors": next((each for each in _VECTORS if each in _of_cpu("flags").split()), "other"),
        "cores": _cores(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _of_cpu(field: str) -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
