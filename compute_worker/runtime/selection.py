"""From references to versions, once a request.

Owns which selections have a meaning, and the memory of versions that were resolved: a reference by
digest is answered from there, so that the worker serves what it holds while the registry is down; a
name or an alias never is, since it may have moved. Does not know tiers.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from compute_worker.contract import AdapterSource, PublishedAdapter
from compute_worker.runtime.api import Weighted
from compute_worker.runtime.version import Choice, Version
from lorry.errors import DigestMismatch, InvalidSelection
from lorry.format.manifest import manifest_from_json
from lorry.format.reference import AdapterName, Reference, parse_reference

# Each adapter of a selection is a pull, a lease and an entry in every row of a step; nobody was seen
# to sum more than a handful.
MAX_ADAPTERS = 16
# Manifests take some 5 KB: 20 MB at the most.
_MAX_KNOWN = 4096
# Under this name a combination that was made here and not published is referred to by digest.
COMBINED = AdapterName("default", "combined")


def combined_reference(digest: str) -> str:
    """How callers refer to a combination of this worker."""
    return str(Reference(COMBINED, digest=digest))


class Resolver:
    """References to versions. `combined`: the version of a recipe digest that this worker holds, else None."""

    def __init__(self, source: AdapterSource, combined: Callable[[str], Version | None]) -> None:
        self._source = source
        self._combined = combined
        self._known: OrderedDict[Reference, Version] = OrderedDict()

    async def version(self, reference: str) -> Version:
        """What the reference means now.

        Raises InvalidReference, InvalidName, RegistryUnavailable, the registry's own errors, and
        DigestMismatch where it answers with another version than was asked for.
        """
        asked = parse_reference(reference)
        if asked.adapter == COMBINED and asked.digest and (version := self._combined(asked.digest)):
            return version
        if asked in self._known:
            self._known.move_to_end(asked)
            return self._known[asked]
        published = await self._source.resolve(reference)
        if asked.digest not in (None, published.digest):
            raise DigestMismatch(f"asked for {asked.digest}, the registry answered {published.digest}")
        return self._remember(Reference(asked.adapter, digest=published.digest), published)

    async def choose(self, selection: Sequence[Weighted]) -> tuple[Choice, ...]:
        """Every adapter of a selection. Raises InvalidSelection, and as `version`."""
        if len(selection) > MAX_ADAPTERS:
            raise InvalidSelection(f"expected at most {MAX_ADAPTERS} adapters, got {len(selection)}")
        for item in selection:
            if not math.isfinite(item.weight):
                raise InvalidSelection(f"{item.adapter}: expected a finite weight, got {item.weight}")
        versions = await asyncio.gather(*(self.version(item.adapter) for item in selection))
        chosen: dict[str, Choice] = {}
        for item, version in zip(selection, versions, strict=True):
            if twin := chosen.get(version.digest):
                raise InvalidSelection(f"{twin.adapter} and {item.adapter} are the same version {version.digest}")
            chosen[version.digest] = Choice(item.adapter, version, item.weight)
        return tuple(chosen.values())

    def _remember(self, key: Reference, published: PublishedAdapter) -> Version:
        if key not in self._known:
            canonical = published.manifest.canonical_json()
            manifest = manifest_from_json(canonical)
            if manifest.digest != published.digest:
                raise DigestMismatch(f"expected the manifest of {published.digest}, got {manifest.digest}")
            self._known[key] = Version(published.digest, manifest)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return self._known[key]
