"""Whether a merge that forms deltas has room for one.

Owns how much memory that takes, and how much there is. A delta of a few rank rows can be as large as the model: who
sends the first has not the second. Does not know how anything is computed.
"""

from __future__ import annotations

from pathlib import Path

from lorry.errors import UnsupportedCombination
from lorry.format.facts import AdaptedModule

# For each number of a delta: itself in fp64 and fp32, its size, the order that it has among them, signs and sums.
# Measured at the peak of ties_svd: 98.
_BYTES = 100
_MEMINFO = Path("/proc/meminfo")
# What a container may have, and has, in bytes; `max` is no limit.
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def check_room(module: AdaptedModule, what: str) -> None:
    """Raise UnsupportedCombination where the module's delta would take more than half of the memory that is free."""
    needed, free = module.in_features * module.out_features * _BYTES, _free()
    if free is not None and needed > free // 2:
        raise UnsupportedCombination(
            f"{module.name}: {what} forms deltas of {module.out_features} x {module.in_features} numbers, which "
            f"takes {needed >> 20} MB, of {free >> 20} MB that are free at most half; sum, cat and svd form none"
        )


def _free() -> int | None:
    """Bytes that this process may still take; None where nobody tells."""
    found = [bytes_ for bytes_ in (_of_machine(), _of_container()) if bytes_ is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    if not _MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def _of_container() -> int | None:
    limit = _LIMIT.read_text().strip() if _LIMIT.exists() else "max"
    return None if limit == "max" else int(limit) - int(_USED.read_text())
