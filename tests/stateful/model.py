"""The whole model: the parts, and a collection of garbage over all of them.

Owns what retention lets go of and what a sweep takes.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from tests.stateful.model_finding import Finding
from tests.stateful.model_state import Adapter, Version
from tests.stateful.values import full


class Model(Finding):
    """A registry without sockets, files and SQL."""

    def collect(self, *, dry_run: bool, at_once: bool) -> tuple[Any, ...]:
        """at_once: without grace, so all that nothing names is garbage; else nothing is old enough."""
        outgrown = [(adapter, version) for adapter in self.alive() for version in self._outgrown(adapter)]
        # What retention lets go of begins its own grace, so it leaves with a later run.
        named = {file.digest for _, version in self.everything() for file in version.manifest.files}
        garbage = {digest for digest in self.blobs if digest not in named} if at_once else set()
        swept = sum(len(self.blobs[digest]) for digest in garbage)
        kept = [len(data) for digest, data in self.blobs.items() if digest not in garbage]
        told = [f"{full(adapter.key)}@{version.number}" for adapter, version in outgrown]
        if not dry_run:
            for adapter, version in outgrown:
                self.forget(adapter, version)
            for digest in garbage:
                self._sweep(digest)
        return told, len(told), len(garbage), swept, len(kept), sum(kept)

    def _outgrown(self, adapter: Adapter) -> list[Version]:
        versions = [adapter.versions[number] for number in sorted(adapter.versions)]
        shown = [version.number for version in versions if version.yank_reason is None]
        if not adapter.keep_last or len(shown) < adapter.keep_last:
            return []
        return [v for v in versions if v.number < shown[-adapter.keep_last] and not self._needed(adapter, v)]

    def _needed(self, adapter: Adapter, version: Version) -> bool:
        parents = chain.from_iterable(other.manifest.parents for _, other in self.everything())
        return bool(
            adapter.names_of(version.number) or self.holders([(adapter, version)]) or version.digest in set(parents)
        )

    def _sweep(self, digest: str) -> None:
        del self.blobs[digest]
        self.damaged.discard(digest)
        for space in self.spaces.values():
            space.claims.discard(digest)
