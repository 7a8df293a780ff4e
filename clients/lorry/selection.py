"""How callers write down which adapters they want.

Owns the spellings that the SDK takes and the messages that they become. Does not know whether what
is named exists; the worker judges it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from lorry.errors import InvalidSelection
from lorry.v1.inference_pb2 import RouteTarget
from lorry.v1.types_pb2 import Selection, WeightedAdapter

# "pirate", ["pirate", ("json", 0.5)], {"pirate": 0.7, "json": 0.3}; empty is the base model alone.
Adapters: TypeAlias = "str | Sequence[str | tuple[str, float]] | Mapping[str, float]"


def weighted(adapters: Adapters) -> list[WeightedAdapter]:
    """The adapters in order; one without a weight leaves it unset, which means 1."""
    if isinstance(adapters, str):
        return [WeightedAdapter(adapter=adapters)]
    if isinstance(adapters, Mapping):
        return [WeightedAdapter(adapter=adapter, weight=weight) for adapter, weight in adapters.items()]
    return [_one(entry) for entry in adapters]


def selection(adapters: Adapters) -> Selection:
    """The adapters as a selection."""
    return Selection(adapters=weighted(adapters))


def branches_of(given: Mapping[str, tuple[float, Adapters]]) -> list[RouteTarget]:
    """Branches by name, each a share and its adapters, as a route's targets."""
    return [RouteTarget(name=name, share=share, selection=selection(them)) for name, (share, them) in given.items()]


def reshared(targets: Sequence[RouteTarget], shares: Mapping[str, float]) -> list[RouteTarget]:
    """A route's targets with other shares, by branch. Raises InvalidSelection where there is no such branch."""
    unknown = shares.keys() - {target.name for target in targets}
    if unknown:
        there = ", ".join(target.name for target in targets)
        raise InvalidSelection(f"expected branches of the route ({there}), got {', '.join(sorted(unknown))}")
    return [
        RouteTarget(name=target.name, share=shares.get(target.name, target.share), selection=target.selection)
        for target in targets
    ]


def parse_weighted(text: str) -> str | tuple[str, float]:
    """`reference` or `reference=weight`, as the command line takes it. Raises InvalidSelection."""
    reference, equals, weight = text.partition("=")
    if not equals:
        return reference
    try:
        return reference, float(weight)
    except ValueError as error:
        raise InvalidSelection(f"expected reference=weight with a number as weight, got {text!r}") from error


def _one(entry: str | tuple[str, float]) -> WeightedAdapter:
    if isinstance(entry, str):
        return WeightedAdapter(adapter=entry)
    return WeightedAdapter(adapter=entry[0], weight=entry[1])
