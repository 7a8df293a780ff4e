"""Workers that break one rule each, to show that the load notices.

Knows the rules as the functions that keep them. Does not know how the load notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as changed
from itertools import count
from typing import Any

from compute_worker.contract import HostAdapter
from compute_worker.engine.engine import TransformersEngine
from compute_worker.runtime.eviction import Worth
from compute_worker.runtime.names import Names
from compute_worker.runtime.pool import Pool
from compute_worker.runtime.residency import Entry
from compute_worker.runtime.version import Version
from lorry.format.manifest import Recipe
from lorry.format.reference import Reference
from tests.chaos.patching import Make, replace


def _rows_beside(install: Callable[..., None]) -> Callable[..., None]:
    def beside(self: TransformersEngine, adapter: HostAdapter, start: int) -> None:
        install(self, adapter, min(start + 1, self.limits.pool_rows - adapter.rank))

    return beside


def _evicted_in_use(_: Callable[..., Any]) -> Callable[..., Any]:
    def worth(self: Pool, entry: Entry) -> Worth | None:
        if entry.holds or entry.pinned or entry.installing:
            return None
        return self._eviction.worth(entry.version.digest)

    return worth


def _stale_names(get: Callable[..., Version | None]) -> Callable[..., Version | None]:
    first: dict[Reference, Version] = {}
    asked = count()

    def stale(self: Names, reference: Reference) -> Version | None:
        version = get(self, reference)
        if version is None or next(asked) % 2:
            return version
        return first.setdefault(reference, version)

    return stale


def _weights_left_out(recipe_digest: Callable[..., str]) -> Callable[..., str]:
    def left_out(recipe: Recipe, base_id: str) -> str:
        sources = tuple(changed(source, weight=1.0) for source in recipe.sources)
        return recipe_digest(changed(recipe, sources=sources), base_id)

    return left_out


MUTANTS: dict[str, tuple[str, Make]] = {
    "rows-installed-beside": ("compute_worker.engine.engine:TransformersEngine.install", _rows_beside),
    "rows-taken-from-requests": ("compute_worker.runtime.pool:Pool._worth", _evicted_in_use),
    "prefix-of-another-selection": ("compute_worker.runtime.activation:beginning", lambda _: lambda *_args: b""),
    "an-old-meaning-of-an-alias": ("compute_worker.runtime.names:Names.get", _stale_names),
    "sessions-that-keep-nothing": ("compute_worker.runtime.sessions:Sessions.get", lambda _: lambda *_args: None),
    "recipes-without-weights": ("compute_worker.runtime.combine:recipe_digest", _weights_left_out),
}


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The rule is broken in this process for the time of the block."""
    mend = replace(*MUTANTS[name])
    try:
        yield
    finally:
        mend()
