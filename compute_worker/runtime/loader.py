"""From a version to facts and host tensors: fetched, hashed, guarded, parsed.

Owns which adapters may come near this base, and where their bytes come from. The work runs in the
executor's threads, never on the event loop and never in the engine's thread. Does not know tiers,
leases or rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from compute_worker.contract import AdapterReading, AdapterSource, Engine, HostAdapter
from compute_worker.runtime.disk import DiskCache, Fetch
from compute_worker.runtime.parsing import Parsing, outlines_on
from compute_worker.runtime.version import Version
from lorry.errors import VersionNotFound
from lorry.format.facts import AdapterFacts
from lorry.format.manifest import ManifestFile
from lorry.partfile import Sink

_T = TypeVar("_T")


class Loader:
    """Brings versions into host memory. `source` has the files, and says which bases are of one family."""

    def __init__(self, engine: Engine, disk: DiskCache, executor: Executor, source: AdapterSource) -> None:
        self._engine = engine
        self._disk = disk
        self._executor = executor
        self._source = source
        self._outlines = outlines_on(engine.base)
        self._carried: set[str] = set()  # base_ids whose adapters carry over to this worker's base

    async def load(self, version: Version, *, known: bool) -> tuple[AdapterFacts, HostAdapter]:
        """Facts and host tensors. known: whether this digest passed the guard before.

        What comes from the registry is hashed, looked at and parsed while it comes. Raises InvalidAdapter,
        UnsupportedAdapter, and what check_base and DiskCache.hold raise.
        """
        # Nothing where the last load was some time ago; else it is done while the first bytes are on their way.
        self._executor.submit(self._engine.prepare)
        return await self._parsed(
            version, self._engine.reading, lambda parsing: (parsing.facts(), parsing.host()), known=known
        )

    async def examine(self, version: Version, *, known: bool) -> AdapterFacts:
        """Facts alone, with the files on disk. Raises as `load`."""
        return await self._parsed(version, None, Parsing.facts, known=known)

    async def _parsed(
        self,
        version: Version,
        begin: Callable[[AdapterFacts], AdapterReading] | None,
        result: Callable[[Parsing], _T],
        *,
        known: bool,
    ) -> _T:
        await self.check_base(version)
        looks: list[Parsing] = []

        def look(paths: Sequence[Path]) -> Parsing:
            size, submit = version.weights.size, self._executor.submit
            looks.append(Parsing(paths[0], size, self._outlines, begin, known=known, submit=submit))
            return looks[-1]

        def finish(weights: Path) -> _T:
            looks[-1].read(weights)
            return result(looks[-1])

        async with self._disk.hold(version.served, self.fetch_for(version), look) as paths:
            return await asyncio.get_running_loop().run_in_executor(self._executor, finish, paths[-1])

    async def check_base(self, version: Version) -> None:
        """Raise IncompatibleAdapter where the version was published for another base and the registry
        says that it does not carry over to this one; RegistryUnavailable where it cannot be asked.

        A yes is remembered until a family changes: it depends on the two bases alone, and shapes are
        judged here each time.
        """
        made_for, base_id = version.manifest.base_id, self._engine.base.base_id
        if made_for == base_id or made_for in self._carried:
            return
        await self._source.check_fit(version.reference, base_id)
        self._carried.add(made_for)

    def forget_families(self) -> None:
        """A base has another parent or another policy now, or may have: what carries over is asked anew."""
        self._carried.clear()

    def fetch_for(self, version: Version) -> Fetch:
        """How the files of a version come here."""
        return _lost if version.combined else self._source.fetch


async def _lost(file: ManifestFile, _: Sink) -> None:
    raise VersionNotFound(f"{file.name} of a combination is not on this worker any more: combine its sources again")
