"""A combine call: sources on disk, the merge in a thread, the guard, the pool, and perhaps a version.

Owns the order of these. The same recipe is computed once, however many ask for it and however
often. Does not know any method's mathematics.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from compute_worker.combination import CombineMethod, Combiner, CombineSource, Deviation
from compute_worker.contract import AdapterSource, Engine, Publication, PublishedAdapter
from compute_worker.runtime.api import CombineCall, Combined, Dry, PublishAs, ResidentState
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.combinations import Combinations, recipe_digest
from compute_worker.runtime.disk import DiskCache
from compute_worker.runtime.line import Line
from compute_worker.runtime.loader import Loader
from compute_worker.runtime.parsing import inspect
from compute_worker.runtime.rights import Homes, rights
from compute_worker.runtime.selection import Resolver
from compute_worker.runtime.tokenizers import brought
from compute_worker.runtime.version import Choice, Version, combined_reference
from compute_worker.runtime.waiting import Departures, Turns
from lorry.errors import InvalidCombination, InvalidSelection, VersionNotFound
from lorry.format.bundle import Bundle, check_bundle
from lorry.format.compatibility import judge, refuse
from lorry.format.manifest import ManifestFile, Recipe, RecipeSource, build_manifest, canonical_json
from lorry.format.reference import check_name, parse_adapter_name
from lorry.partfile import Sink

_T = TypeVar("_T")

# Combine calls at a time, those that are computed included; each waits for seconds to minutes.
_LONGEST_LINE = 128


class Combining:
    """Answers combine calls. tool: program and version, recorded in each recipe."""

    def __init__(  # noqa: PLR0913 - the parts that a combination goes through
        self,
        engine: Engine,
        source: AdapterSource,
        combiner: Combiner,
        resolver: Resolver,
        loader: Loader,
        disk: DiskCache,
        *,
        cache: AdapterCache,
        made: Combinations,
        executor: Executor,
        tool: str,
    ) -> None:
        self._engine = engine
        self._base = engine.base
        self._source = source
        self._combiner = combiner
        self._resolver = resolver
        self._loader = loader
        self._disk = disk
        self._cache = cache
        self._made = made
        self._executor = executor
        self._tool = tool
        self._flight: Departures[Version] = Departures()
        self._tries: Departures[Dry] = Departures()
        # One merge at a time: each keeps a core busy, and its sources and result in memory.
        self._turns = Turns()
        self._line = Line(_LONGEST_LINE)
        self._numbers = count()

    async def combine(self, call: CombineCall) -> Combined:
        """The combination in the pool, computed where it was not known, published where that was asked.

        A dry run keeps nothing. Raises InvalidCombination, UnsupportedCombination, QueueFull, what resolving and
        loading raise, and the registry's own errors.
        """
        number = next(self._numbers)
        self._line.join(number, rights().holder)
        try:
            return await self._combined(call)
        finally:
            self._line.leave(number)

    async def _combined(self, call: CombineCall) -> Combined:
        choices = await self._choose(call)
        recipe = self._recipe(call.method, choices)
        digest = recipe_digest(recipe, self._base.base_id)
        existing = self._complete(digest)
        if call.dry_run:
            dry = await self._tries.run(digest, lambda: self._try(call.method, choices))
            return Combined(digest, "", None, existing is not None, dry=dry)
        load = partial(self._load, digest, _homes(choices))
        compute = partial(self._flight.run, digest, lambda: self._compute(digest, recipe, call.method, choices))
        try:
            version, resident = await load(existing or await compute())
        except VersionNotFound:  # a full disk may lose its files before they are loaded, once
            version, resident = await load(await compute())
        published = await self._publish(version, recipe, call.publish) if call.publish else None
        return Combined(digest, combined_reference(digest), resident, existing is not None, published)

    async def _load(self, digest: str, homes: Homes, version: Version) -> tuple[Version, ResidentState]:
        """The combination and where it is now: open to those who may read the sources as they were named this time."""
        version = self._made.open_to(version, homes)
        return version, await self._cache.load(Choice(combined_reference(digest), version))

    async def close(self) -> None:
        """Stop computing."""
        await self._flight.close()
        await self._tries.close()

    async def _choose(self, call: CombineCall) -> tuple[Choice, ...]:
        if not call.sources:
            raise InvalidCombination("expected one source at least, got none")
        if call.publish is not None:
            parse_adapter_name(call.publish.adapter)
            if call.publish.alias:
                check_name(call.publish.alias, "alias")
        try:
            choices = await self._resolver.choose(call.sources, asked_anew=True)
        except InvalidSelection as error:
            raise InvalidCombination(error.message) from error
        unpublished = [choice.adapter for choice in choices if choice.version.combined]
        if call.publish is not None and unpublished:
            raise InvalidCombination(
                f"unpublished combinations cannot be parents of a version: publish {', '.join(unpublished)} first"
            )
        return choices

    def _recipe(self, method: CombineMethod, choices: Sequence[Choice]) -> Recipe:
        try:
            parameters = canonical_json(dict(method.parameters))
        except ValueError:
            raise InvalidCombination(f"{method.name}: expected finite parameters, got {method.parameters}") from None
        sources = tuple(RecipeSource(choice.version.digest, float(choice.weight)) for choice in choices)
        return Recipe(method.name, parameters, sources, self._tool)

    def _complete(self, digest: str) -> Version | None:
        """The combination, where its files are all here and could be published, too."""
        version = self._made.get(digest)
        complete = version is not None and all(self._disk.has(file.digest) for file in version.manifest.files)
        return version if complete else None

    async def _compute(self, digest: str, recipe: Recipe, method: CombineMethod, choices: Sequence[Choice]) -> Version:
        async with self._turn(self._flight) as folder:
            await self._with(choices, lambda sources: self._combiner.combine(method, sources, folder))
            await self._add_wording(choices, folder)
            bundle = await self._thread(self._check, folder)
            parents = [source.digest for source in recipe.sources]
            manifest = build_manifest(bundle.files, bundle.facts, self._base.base_id, parents, recipe)
            for file in bundle.files:
                await self._disk.adopt(file, bundle.path(file))
            return self._made.add(digest, manifest, _homes(choices))

    async def _try(self, method: CombineMethod, choices: Sequence[Choice]) -> Dry:
        async with self._turn(self._tries) as folder:

            def measured(sources: Sequence[CombineSource]) -> Deviation:
                self._combiner.combine(method, sources, folder)
                return self._combiner.compare(sources, folder)

            deviation = await self._with(choices, measured)
            await self._add_wording(choices, folder)
            bundle = await self._thread(self._check, folder)
            return Dry(bundle.facts.rank, sum(file.size for file in bundle.files), deviation)

    @asynccontextmanager
    async def _turn(self, flight: Departures[Any]) -> AsyncIterator[Path]:
        """The caller's turn to merge, and a folder for it; from then on it is done whoever leaves."""
        async with self._turns.of(rights().holder):
            with flight.begun():
                async with self._disk.temporary.folder() as folder:
                    yield folder

    async def _add_wording(self, choices: Sequence[Choice], folder: Path) -> None:
        """Tokenizer and chat template that the sources bring, where all that bring any bring the same."""
        _, different = brought(choices)
        if len(different) == 1:
            await self._copy(different[0], different[0].wording, folder)

    async def _with(self, choices: Sequence[Choice], work: Callable[[Sequence[CombineSource]], _T]) -> _T:
        """What `work` makes of the sources, in a thread; their files stay where they are meanwhile."""
        versions = [choice.version for choice in choices]
        for version in versions:
            await self._loader.check_base(version)
        origin = {file.digest: version for version in versions for file in (version.config, version.weights)}

        async def fetch(file: ManifestFile, into: Sink) -> None:
            await self._loader.fetch_for(origin[file.digest])(file, into)

        files = [file for version in versions for file in (version.config, version.weights)]
        async with self._disk.hold(files, fetch) as paths:
            pairs = list(zip(paths[::2], paths[1::2], strict=True))
            return await self._thread(lambda: work(self._sources(choices, pairs)))

    def _sources(self, choices: Sequence[Choice], pairs: Sequence[tuple[Path, Path]]) -> list[CombineSource]:
        return [
            CombineSource(weights, inspect(config, weights, self._base), choice.version.digest, float(choice.weight))
            for choice, (config, weights) in zip(choices, pairs, strict=True)
        ]

    def _check(self, folder: Path) -> Bundle:
        bundle = check_bundle(folder)
        refuse(judge(bundle.facts, self._base, claimed=self._base))
        self._engine.reading(bundle.facts)  # what it could not load is not kept, nor promised by a dry run
        return bundle

    async def _publish(self, version: Version, recipe: Recipe, target: PublishAs) -> PublishedAdapter:
        publication = Publication(target.adapter, target.alias, target.description, recipe, self._base.base_id)
        async with self._disk.temporary.folder() as folder:
            await self._copy(version, version.manifest.files, folder)
            return await self._source.publish(folder, publication)

    async def _copy(self, version: Version, files: Sequence[ManifestFile], folder: Path) -> None:
        async with self._disk.hold(files, self._loader.fetch_for(version)) as paths:
            for file, path in zip(files, paths, strict=True):
                await self._thread(shutil.copyfile, path, folder / file.name)

    async def _thread(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)


def _homes(choices: Sequence[Choice]) -> Homes:
    return tuple(group for choice in choices for group in choice.homes)
