"""What `make bench` measures: every case does the same work once with Lorry and once with a peer.

Owns the list: names, titles, units, and the order in which they run. Does not know the work itself.
"""

from __future__ import annotations

from benchmarks.measuring import Claim
from benchmarks.residency import Cold, LoadGrowth, Memory, Switch
from benchmarks.running import Measurable
from benchmarks.startup import StartUp
from benchmarks.throughput import Batch, LongPrompts, Throughput
from benchmarks.transfer import Pull, Push
from benchmarks.world import Sides, World


def cases(sides: Sides) -> dict[str, Measurable[World]]:
    """Those that the peer takes part in, by name. Few adapters come first: PEFT never forgets how many it had."""

    def claim(name: str, title: str, unit: str, *, higher: bool = False) -> Claim:
        return Claim(name, title, unit, f"{sides.kind.title}, {sides.peer_dtype}", higher=higher, ours=sides.dtype)

    def rate(name: str, title: str) -> Claim:
        return claim(name, title, "tok/s", higher=True)

    every: list[Measurable[World]] = [
        Throughput(rate("A", "1 request, base"), 1, 0),
        Throughput(rate("B", "1 request, 1 adapter"), 1, 1),
        Throughput(rate("C", "32 requests, base"), None, 0),
        Throughput(rate("D", "32 requests, 1 adapter"), None, 1),
        Throughput(rate("E", "32 requests, 8 adapters"), None, 8),
        LongPrompts(claim("I", "8 prompts of 1,024, base", "s"), 0),
        LongPrompts(claim("J", "8 prompts of 1,024, 1 adapter", "s"), 1),
        Cold(claim("H", "cold adapter to first token", "ms")),
        Switch(claim("switch", "switch to a resident adapter", "ms")),
        Throughput(rate("F", "32 requests, 32 adapters"), None, 32),
        Memory(claim("rss", "memory with 32 adapters", "MB")),
        StartUp(claim("start", "process start to first token", "s")),
        LoadGrowth(claim("load", "24th load over 1st load", "x")),
        Push(),
        Pull(),
    ]
    if sides.clock != "wall":  # the others are about waiting, not about work
        every = [case for case in every if isinstance(case, Batch)]
    wanted = sides.kind.cases
    return {case.claim.name: case for case in every if not wanted or case.claim.name in wanted}
