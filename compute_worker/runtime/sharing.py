"""Fair sharing among tenants: a virtual token counter each (VTC, arXiv 2401.00588), and who waits.

Owns what each tenant was served, and the order in which waiting requests come: the tenant that was
served least first, of its requests the one of highest priority, of these the earliest. So no tenant
that has something to do falls behind another by more than what is in flight. Does not know blocks.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from compute_worker.runtime.job import Job

# What a token costs its tenant, as in the paper: one that is drawn takes a step's share of reading the
# weights, where one of a prompt shares it with the whole chunk.
PROMPT_COST = 1
DRAWN_COST = 2
# More than batch and queue hold by default: whoever is forgotten has long had nothing to do here.
_MAX_TENANTS = 4096


class Shares:
    """What each tenant was served, in token costs. Forgets whom it has not heard of for longest."""

    def __init__(self) -> None:
        self._served: OrderedDict[str, int] = OrderedDict()
        self._last = ""

    def served(self, tenant: str) -> int:
        """Its counter. Any thread."""
        return self._served.get(tenant, 0)

    def lift(self, tenant: str, waiting: Iterable[str]) -> None:
        """The tenant has something to do again, beside those who wait: it gets no credit for its absence."""
        least = min((self.served(other) for other in waiting), default=self.served(self._last))
        self._set(tenant, max(self.served(tenant), least))

    def waits_no_more(self, tenant: str) -> None:
        """The last of its waiting requests has its turn: while nobody waits, others are measured by it."""
        self._last = tenant

    def charge(self, tenant: str, cost: int) -> None:
        """The tenant was served."""
        self._set(tenant, self.served(tenant) + cost)

    def rank(self, job: Job) -> tuple[int, str, int, int]:
        """Smaller is first; the largest gives its KV back first. Priorities of two tenants are not compared."""
        return self.served(job.tenant), job.tenant, -job.priority, job.number

    def _set(self, tenant: str, served: int) -> None:
        self._served[tenant] = served
        self._served.move_to_end(tenant)
        if len(self._served) > _MAX_TENANTS:
            self._served.popitem(last=False)


class Waiting:
    """The requests that are not in the batch, by tenant."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._queues: dict[str, list[tuple[int, int, Job]]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[Job]:
        return (job for queue in self._queues.values() for _, _, job in queue)

    def add(self, job: Job) -> None:
        """Wait, by order of arrival and not of this call."""
        if job.tenant not in self._queues:
            self._shares.lift(job.tenant, self._queues)
        heapq.heappush(self._queues.setdefault(job.tenant, []), (-job.priority, job.number, job))

    def first(self) -> Job:
        """Whose turn it is. There is one."""
        heads = (queue[0][2] for queue in self._queues.values())
        return min(heads, key=lambda job: (self._shares.served(job.tenant), job.number))

    def remove(self, job: Job) -> bool:
        """Wait no longer; whether it did."""
        queue, entry = self._queues.get(job.tenant, []), (-job.priority, job.number, job)
        if entry not in queue:
            return False
        queue.remove(entry)
        heapq.heapify(queue)
        if not queue:
            del self._queues[job.tenant]
            self._shares.waits_no_more(job.tenant)
        return True
