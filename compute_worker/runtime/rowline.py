"""Who waits for pool rows, and whose turn it is.

Owns the order: the tenant that was served least, of its calls the earliest. A turn is for so long, and nobody's who
could not be placed though every request ended: others do not wait for that. Of those who ask for rows on nobody's
behalf (a load, a pin, a route) one may come before a request that waits, not one after the other. Does not know rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Ticket:
    """Somebody who waits. begins, ends: when it comes before others (time.monotonic()'s clock); behind them otherwise.

    patient: for no request. overtaken: such a one got rows while this one waited. hopeless: what is held for longer
    than any request keeps it out.
    """

    tenant: str
    begins: float
    ends: float
    patient: bool = False
    overtaken: bool = False
    hopeless: bool = False


class RowLine:
    """Belongs to the event loop. served: what a tenant was served so far."""

    def __init__(self, served: Callable[[str], int]) -> None:
        self._served = served
        self._waiting: list[Ticket] = []  # in order of arrival

    def join(self, ticket: Ticket) -> None:
        """Wait, too."""
        self._waiting.append(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Wait no longer."""
        self._waiting.remove(ticket)

    def granted(self, ticket: Ticket) -> None:
        """It got rows that others waited for."""
        for other in self._waiting:
            other.overtaken |= ticket.patient and not other.patient

    def is_first(self, ticket: Ticket) -> bool:
        """Whether it is this one's turn."""
        hopeful = [each for each in self._waiting if not each.hopeless]
        owed = any(each.overtaken and _in_time(each) for each in hopeful)
        return min(hopeful, key=lambda each: self._turn(each, owed=owed), default=None) is ticket

    def hope(self) -> None:
        """What is held for longer than requests has changed: everybody has a turn again."""
        for ticket in self._waiting:
            ticket.hopeless = False

    def _turn(self, ticket: Ticket, *, owed: bool) -> tuple[bool, bool, int]:
        late = not _in_time(ticket) or (owed and ticket.patient)
        return late, not ticket.patient, self._served(ticket.tenant)


def _in_time(ticket: Ticket) -> bool:
    return ticket.begins <= time.monotonic() < ticket.ends
