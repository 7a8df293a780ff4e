"""The requests that wait, for adapters or for the batch, and how many of them each tenant may have.

Owns one number and who is counted. Does not know what is waited for, nor whose turn it is.
"""

from __future__ import annotations

from collections import Counter

from lorry.errors import QueueFull


class Line:
    """Who waits, `limit` at most. Belongs to the event loop.

    A tenant may have as many as places are free behind it (Choudhury and Hahne's dynamic threshold): one
    alone fills half of the line, two a third each, and there is always a place for one who comes new.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting: dict[int, str] = {}
        self._by_tenant: Counter[str] = Counter()

    def join(self, number: int, tenant: str) -> None:
        """Wait, too. Raises QueueFull."""
        free, own = self.limit - len(self.waiting), self._by_tenant[tenant]
        if own >= free:
            raise QueueFull(f"{own} of this caller's requests wait, and {free} places of {self.limit} are free")
        self.waiting[number] = tenant
        self._by_tenant[tenant] += 1

    def leave(self, number: int) -> None:
        """Wait no longer. A second time does nothing."""
        tenant = self.waiting.pop(number, None)
        if tenant is not None:
            self._by_tenant -= Counter((tenant,))  # drops those at 0
