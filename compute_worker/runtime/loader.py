"""From a version to facts and host tensors: fetched, hashed, guarded, parsed.

Owns the guard that every adapter passes before it is used, pulled or combined here alike. Runs in
the executor's threads, never on the event loop and never in the engine's thread. Does not know
tiers, leases or rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import BinaryIO

from compute_worker.contract import AdapterSource, Engine, HostAdapter
from compute_worker.runtime.disk import DiskCache, Fetch
from compute_worker.runtime.version import Version
from lorry.errors import IncompatibleAdapter, VersionNotFound
from lorry.format.base import BaseFacts
from lorry.format.compatibility import judge, refuse
from lorry.format.config import MAX_CONFIG, parse_config
from lorry.format.derive import derive_facts
from lorry.format.facts import AdapterFacts
from lorry.format.finite import check_finite
from lorry.format.header import LENGTH_BYTES, header_length, parse_header
from lorry.format.manifest import ManifestFile

_CHUNK = 1 << 20  # one read; large enough that the call costs nothing beside looking at the values


class Loader:
    """Brings versions into host memory. `source` has the files, and says which bases are of one family."""

    def __init__(self, engine: Engine, disk: DiskCache, executor: Executor, source: AdapterSource) -> None:
        self._engine = engine
        self._disk = disk
        self._executor = executor
        self._source = source
        self._carried: set[str] = set()  # base_ids whose adapters carry over to this worker's base

    async def load(self, version: Version, known: AdapterFacts | None) -> tuple[AdapterFacts, HostAdapter]:
        """Facts and host tensors. known: the facts, where this digest passed the guard before.

        Raises InvalidAdapter, UnsupportedAdapter, and what check_base and DiskCache.hold raise.
        """
        await self.check_base(version)
        async with self._disk.hold([version.config, version.weights], self.fetch_for(version)) as (config, weights):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self._parse, config, weights, known)

    async def check_base(self, version: Version) -> None:
        """Raise IncompatibleAdapter where the version was published for another base, unless the
        registry says that it carries over to this one; RegistryUnavailable where it cannot be asked.

        A yes is remembered: it depends on the two bases alone, and shapes are judged here each time.
        """
        made_for, base_id = version.manifest.base_id, self._engine.base.base_id
        if made_for == base_id or made_for in self._carried:
            return
        if not await self._source.fits(version.reference, base_id):
            raise IncompatibleAdapter(
                f"BASE_MISMATCH: the adapter was published for base {made_for}, this worker serves {base_id}"
            )
        self._carried.add(made_for)

    def fetch_for(self, version: Version) -> Fetch:
        """How the files of a version come here."""
        return _lost if version.combined else self._source.fetch

    def _parse(self, config: Path, weights: Path, known: AdapterFacts | None) -> tuple[AdapterFacts, HostAdapter]:
        facts = known or inspect(config, weights, self._engine.base)
        return facts, self._engine.read(weights, facts)


def inspect(config: Path, weights: Path, base: BaseFacts) -> AdapterFacts:
    """What the files are, every value looked at. Slow; any thread.

    Raises InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter.
    """
    with config.open("rb") as file:
        parsed = parse_config(file.read(MAX_CONFIG + 1))  # one more than is taken
    with weights.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        first = file.read(LENGTH_BYTES)
        header = first + file.read(header_length(first) - LENGTH_BYTES)
        index = parse_header(header, size)
        facts = derive_facts(parsed, index)
        # The manifest's base_id, compared before, is the claim that counts: the name in the configuration is free text.
        refuse(judge(facts, base, claimed=base))
        check_finite(index, _whole(file))
    return facts


def _whole(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_CHUNK):
        yield piece


async def _lost(file: ManifestFile, _: Path) -> None:
    raise VersionNotFound(f"{file.name} of a combination is not on this worker any more: combine its sources again")
