"""Families of bases: who is declared a variant of whom, and what follows for adapters.

Owns the walk along the declared parents. Does not know shapes, or where bases are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lorry.errors import InvalidInput
from lorry.format.compatibility import CarryOver


@dataclass(frozen=True, slots=True)
class Kin:
    """A base without its shape. revision: grows with every change of its family."""

    base_id: str
    name: str
    derived_from: str | None
    carry_over: CarryOver
    revision: int


class Families:
    """All registered bases as of one moment. A declared parent need not be registered."""

    def __init__(self, kin: Iterable[Kin]) -> None:
        self.kin = {base.base_id: base for base in kin}

    def carry_over(self, made_for: str, served: str) -> CarryOver:
        """What base `served` says about adapters of base `made_for`: REFUSE where it does not descend from it."""
        descends = served in self.kin and made_for in self._ancestors(self.kin[served].derived_from)
        return self.kin[served].carry_over if descends else CarryOver.REFUSE

    def descendants(self, base_id: str) -> list[str]:
        """The registered bases that descend from it, in any number of steps."""
        return [other for other, kin in self.kin.items() if base_id in self._ancestors(kin.derived_from)]

    def check_parent(self, base_id: str, parent: str | None) -> None:
        """Raise InvalidInput where a base with this parent would descend from itself."""
        if base_id in self._ancestors(parent):
            raise InvalidInput(f"derived_from: expected a base that does not descend from {base_id}, got {parent}")

    def _ancestors(self, parent: str | None) -> Iterator[str]:
        """The parent and its ancestors, nearest first; each once, so the walk ends whatever is stored."""
        seen: set[str] = set()
        while parent is not None and parent not in seen:
            seen.add(parent)
            yield parent
            parent = self.kin[parent].derived_from if parent in self.kin else None
