"""What became of the requests of each route, by branch and selection.

Owns the counting, and that no more series are named than can be watched: the busiest, all others
together. Does not know how a route finds its branch, nor under which names the figures are shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from compute_worker.runtime.api import Delta, Finished, Started
from compute_worker.runtime.tally import Busiest, Spread
from lorry.errors import LorryError

# Route, branch, digest of the selection.
Label: TypeAlias = tuple[str, str, str]
OTHERS: Label = ("other", "other", "other")
# A histogram and three counters each: some 1,000 series in all.
_NAMED = 50


@dataclass(slots=True)
class Requests:
    """count: those that ended, however. tokens: of their answers. seconds: from arrival to the end."""

    count: int = 0
    errors: int = 0
    tokens: int = 0
    seconds: Spread = field(default_factory=Spread)

    def take(self, item: Started | Delta | Finished) -> None:
        """A message of an answer."""
        if isinstance(item, Delta):
            self.tokens += len(item.drawn)


class Traffic:
    """Belongs to the event loop. A request counts for what served it, even if its route has moved since."""

    def __init__(self, named: int = _NAMED) -> None:
        self.by_label = Busiest[Label, Requests](Requests, named)

    @contextmanager
    def watching(self, label: Label | None) -> Iterator[Requests]:
        """Around a request, which takes note of its messages; one without a label goes uncounted."""
        requests = Requests() if label is None else self.by_label.of(label)
        since = time.monotonic()
        try:
            yield requests
        except LorryError:
            requests.errors += 1
            raise
        finally:
            requests.count += 1
            requests.seconds.add(time.monotonic() - since)
