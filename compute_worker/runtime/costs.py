"""What bringing an adapter back into a tier takes, in seconds, as eviction weighs it.

Owns the estimates. They are made of sizes alone and not of clocks: two adapters of one size are worth the
same however busy the machine was when they came. Does not know budgets or policies.
"""

from __future__ import annotations

from compute_worker.runtime.residency import Entry

# Only ratios count, so that a machine twice as fast has the same order. Reading was measured (2 cores, EPYC,
# AVX2, an adapter of 10 MB: some 70 ms of CPU); the others are estimates from sizes and speeds of memory and network.
# Into pool rows: some 400 small copies, then the memory's speed.
_INSTALL_SECONDS, _INSTALL_BYTES = 0.002, 2e9
# From the disk: hashed, every value looked at, and cast.
_READ_SECONDS, _READ_BYTES = 0.003, 0.15e9
# DoRA besides: the norm of each row of the base's weight with its delta; elements of these weights.
_NORM_ELEMENTS = 0.4e9
# From the registry: a round trip with its database, then a network of a gigabit.
_FETCH_SECONDS, _FETCH_BYTES = 0.005, 0.1e9


def to_disk(size: int) -> float:
    """A file of `size` bytes from the registry."""
    return _FETCH_SECONDS + size / _FETCH_BYTES


def to_host(entry: Entry, *, on_disk: bool) -> float:
    """An adapter into host memory, from the disk or from the registry."""
    size, modules = entry.version.weights.size, entry.facts.modules if entry.facts else ()
    norms = sum(module.in_features * module.out_features for module in modules if module.magnitude)
    seconds = _READ_SECONDS + size / _READ_BYTES + norms / _NORM_ELEMENTS
    return seconds if on_disk else seconds + to_disk(size)


def to_pool(entry: Entry, size: int, *, on_disk: bool) -> float:
    """An adapter into `size` bytes of pool rows, from the nearest tier below."""
    seconds = _INSTALL_SECONDS + size / _INSTALL_BYTES
    return seconds if entry.host is not None else seconds + to_host(entry, on_disk=on_disk)
