"""What the hardware allows: how fast memory can be read and numbers multiplied, measured here and now.

Owns the two probes and the bound that follows for a step: no step can be shorter than the reading of every
weight that it uses, nor than its multiplications. Does not know engines.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

from compute_worker.engine.memory import Arena

# Larger than any cache of a worker's machine.
_BYTES = 256 << 20
_ROUNDS = 2_000_000
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Bounds:
    """Best of some repeats. read: bytes a second. multiply: multiplications and additions a second."""

    read: float
    multiply: float

    def of(self, nbytes: float, operations: float) -> float:
        """Seconds that reading so many bytes, or so many operations, must take."""
        return max(nbytes / self.read, operations / self.multiply)


def measured(library: Path, threads: int, clock: Callable[[], float], *, pairs: bool) -> Bounds:
    """Probe with the worker's own library. clock: seconds, of this thread's CPU where there is one thread.

    pairs: whether bfloat16 is multiplied in pairs, and not float32.
    """
    probes = ctypes.CDLL(str(library))
    probes.lorry_probe_read.argtypes = (c_void_p, c_int64, c_int)
    probes.lorry_probe_multiply.argtypes = (c_int64, c_int, c_int)
    probes.lorry_probe_multiply.restype = c_int64
    memory = Arena().take(_BYTES).fill_(1)
    reads, multiplies = [], []
    for _ in range(_REPEATS):
        began = clock()
        probes.lorry_probe_read(memory.data_ptr(), _BYTES, threads)
        middle = clock()
        operations = probes.lorry_probe_multiply(_ROUNDS, pairs, threads)
        reads.append(_BYTES / (middle - began))
        multiplies.append(operations / (clock() - middle))
    return Bounds(max(reads), max(multiplies))
