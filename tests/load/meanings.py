"""What names and routes meant at which time, as far as whoever moves them can know.

Owns the spans: a meaning may be answered from the moment in which it was asked for, until the one that
follows was seen to be answered. Only one task moves things. Does not know how anything is moved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

# References with weights, and digests with weights, in order.
Selection = tuple[tuple[str, float], ...]


@dataclass
class _Meaning(Generic[T]):
    value: T
    since: float
    until: float = math.inf


class Pointer(Generic[T]):
    """Something that moves from one meaning to the next."""

    def __init__(self, first: T) -> None:
        self._meanings = [_Meaning(first, -math.inf)]

    @property
    def now(self) -> T:
        """What it means, or is about to mean."""
        return self._meanings[-1].value

    @contextmanager
    def moving(self, value: T) -> Iterator[None]:
        """Around a move; at the end of the block the new meaning is there for all. Where it raises, nothing moved."""
        self._meanings.append(_Meaning(value, time.monotonic()))
        try:
            yield
        except BaseException:
            self._meanings.pop()
            raise
        self._meanings[-2].until = time.monotonic()

    def meant(self, begin: float, end: float) -> list[T]:
        """Everything that it may have meant between two moments."""
        return [meaning.value for meaning in self._meanings if meaning.since <= end and meaning.until >= begin]


@dataclass
class Meanings:
    """exact: digests of references by number. aliases: by reference. routes: the selections of their branches.

    combined: references of the combinations that there are, as far as anybody knows.
    """

    exact: dict[str, str]
    aliases: dict[str, Pointer[str]]
    routes: dict[str, Pointer[tuple[Selection, ...]]]
    combined: list[str] = field(default_factory=list)

    def allows(self, target: Selection | str, scale: float, served: Selection, span: tuple[float, float]) -> bool:
        """Whether a request of this target (adapters, or a route) may be served so, when it came in this span."""
        wanted = self.routes[target].meant(*span) if isinstance(target, str) else [(target,)]
        return any(self._is(selection, scale, served, span) for branches in wanted for selection in branches)

    def _is(self, wanted: Selection, scale: float, served: Selection, span: tuple[float, float]) -> bool:
        return len(wanted) == len(served) and all(
            digest in self._digests(reference, span) and weight * scale == given
            for (reference, weight), (digest, given) in zip(wanted, served, strict=True)
        )

    def _digests(self, reference: str, span: tuple[float, float]) -> list[str]:
        if reference in self.aliases:
            return self.aliases[reference].meant(*span)
        return [self.exact.get(reference) or reference.partition("@")[2]]
