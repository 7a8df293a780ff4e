"""A registry in memory for the runtime's tests: real bundles, real digests, real refusals, real order.

Counts what is fetched, can be taken down, can hold a transfer or an answer back and can send wrong
bytes. Its events are heard only where the test says so. Also a combiner that writes real adapters
(stacked factors).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors.numpy import load_file

from compute_worker.combination import CombineMethod, CombineSource, Deviation
from compute_worker.contract import Publication, PublishedAdapter
from lorry.errors import (
    AdapterNotFound,
    AliasNotFound,
    IncompatibleAdapter,
    InvalidCombination,
    VersionNotFound,
    VersionYanked,
)
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME, check_bundle
from lorry.format.derive import outline
from lorry.format.digest import digest_of
from lorry.format.header import header_length
from lorry.format.manifest import Manifest, ManifestFile, Recipe, build_manifest
from lorry.format.reference import AdapterName, Reference, parse_adapter_name, parse_reference
from lorry.partfile import Sink
from tests.support.adapters import adapter_bytes, encode, json_bytes, peft_config, safetensors_bytes
from tests.support.toy_engine import BASE, MODULE, WIDTH, content_of
from tests.support.toy_events import ToyEvents

_NOTHING: Mapping[str, bytes] = MappingProxyType({})


class ToyRegistry(ToyEvents):
    """An AdapterSource."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: Counter[str] = Counter()  # by digest
        self.resolved: Counter[str] = Counter()  # by reference
        self.publications: list[Publication] = []
        self.corrupt: set[str] = set()  # digests that are sent with a bit flipped
        self.held: dict[str, asyncio.Event] = {}  # digests whose transfer waits
        self.piece = 1 << 20  # bytes that are sent at a time
        self.answering = asyncio.Event()  # cleared: answers wait, made already, on their way
        self.answering.set()
        self.blobs: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()  # for a verdict, by reference
        self.carried: set[tuple[str, str]] = set()  # (made for, served): bases between which adapters carry over
        self._versions: dict[AdapterName, list[PublishedAdapter | None]] = {}
        self._aliases: dict[tuple[AdapterName, str], str] = {}

    def add(
        self,
        name: str,
        rank: int = 2,
        *,
        seed: int | None = None,
        base_id: str = BASE.base_id,
        files: Mapping[str, bytes] = _NOTHING,
        **options: object,
    ) -> PublishedAdapter:
        """Publish a fresh adapter; equal arguments give equal bytes. files: besides the two, by name."""
        seed = sum(name.encode()) * 100 + rank if seed is None else seed
        config, weights = adapter_bytes({MODULE: (WIDTH, WIDTH, rank)}, seed=seed, **options)
        return self.add_bytes(name, config, weights, base_id, files)

    def add_bytes(
        self,
        name: str,
        config: bytes,
        weights: bytes,
        base_id: str = BASE.base_id,
        files: Mapping[str, bytes] = _NOTHING,
    ) -> PublishedAdapter:
        """Publish these bytes. The weights' values are not looked at."""
        facts = outline(config, weights[: header_length(weights[:8])], len(weights))
        given = {CONFIG_NAME: config, WEIGHTS_NAME: weights, **files}
        return self._publish(
            name, build_manifest([self._blob(file, data) for file, data in given.items()], facts, base_id)
        )

    def point(self, name: str, alias: str, published: PublishedAdapter) -> None:
        """Move an alias."""
        adapter = parse_adapter_name(name)
        self._aliases[adapter, alias] = published.digest
        self.tell("ALIAS_MOVED", adapter, published.digest, alias=alias)

    def unpoint(self, name: str, alias: str) -> None:
        """Delete an alias."""
        adapter = parse_adapter_name(name)
        del self._aliases[adapter, alias]
        self.tell("ALIAS_DELETED", adapter, alias=alias)

    def yank(self, name: str, published: PublishedAdapter, reason: str) -> None:
        adapter = parse_adapter_name(name)
        self._versions[adapter] = [
            replace(v, yank_reason=reason) if v and v.digest == published.digest else v for v in self._versions[adapter]
        ]
        self.tell("YANKED", adapter, published.digest, reason=reason)

    def delete(self, name: str, published: PublishedAdapter) -> None:
        """With the aliases that point there; what no other version names cannot be fetched any more."""
        adapter = parse_adapter_name(name)
        self._versions[adapter] = [None if v and v.digest == published.digest else v for v in self._versions[adapter]]
        for (owner, alias), digest in list(self._aliases.items()):
            if (owner, digest) == (adapter, published.digest):
                del self._aliases[owner, alias]
                self.tell("ALIAS_DELETED", adapter, alias=alias)
        self.tell("DELETED", adapter, published.digest)

    def content(self, published: PublishedAdapter) -> str:
        """What the toy engine's rows hold of it."""
        return content_of(self.blobs[self.weights(published).digest])

    def weights(self, published: PublishedAdapter) -> ManifestFile:
        return next(file for file in published.manifest.files if file.name == WEIGHTS_NAME)

    async def resolve(self, reference: str) -> PublishedAdapter:
        await asyncio.sleep(0)
        self.check_up()
        self.resolved[reference] += 1
        found = self.lookup(parse_reference(reference))
        await self.answering.wait()
        return found

    def lookup(self, asked: Reference) -> PublishedAdapter:
        """What a reference means at this moment."""
        versions = self._versions.get(asked.adapter)
        if not versions:
            raise AdapterNotFound(f"no adapter {asked.adapter}")
        if asked.alias is not None and (asked.adapter, asked.alias) not in self._aliases:
            raise AliasNotFound(f"no alias {asked}")
        digest = asked.digest or self._aliases.get((asked.adapter, asked.alias or ""))
        found = [version for version in versions if version and (digest or version.digest) == version.digest]
        if asked.number is not None:
            found = [version for version in versions[asked.number - 1 : asked.number] if version]
        elif digest is None:
            found = [version for version in found if version.yank_reason is None]
        if not found:
            raise VersionNotFound(f"no version {asked}")
        if asked.digest is None and found[-1].yank_reason is not None:
            raise VersionYanked(f"{asked} was yanked: {found[-1].yank_reason}")
        return found[-1]

    async def fetch(self, file: ManifestFile, into: Sink) -> None:
        self.check_up()
        self.fetched[file.digest] += 1
        if file.digest in self.held:
            await self.held[file.digest].wait()
        self.check_up()
        data = bytearray(self.blobs[file.digest])
        if file.digest in self.corrupt:
            data[-1] ^= 1
        for start in range(0, len(data), self.piece):
            await asyncio.to_thread(into.append, start, memoryview(data)[start : start + self.piece])
        await asyncio.to_thread(into.commit)

    async def publish(self, directory: Path, publication: Publication) -> PublishedAdapter:
        self.check_up()
        self.publications.append(publication)
        bundle = check_bundle(directory)
        for file in bundle.files:
            self._blob(file.name, bundle.path(file).read_bytes())
        recipe: Recipe = publication.recipe
        parents = [source.digest for source in recipe.sources]
        manifest = build_manifest(bundle.files, bundle.facts, publication.base_id, parents, recipe)
        return self._publish(publication.adapter, manifest)

    async def check_fit(self, reference: str, base_id: str) -> None:
        self.check_up()
        self.asked[reference] += 1
        made_for = (await self.resolve(reference)).manifest.base_id
        if (made_for, base_id) not in self.carried:
            raise IncompatibleAdapter(f"BASE_MISMATCH: {reference} was published for base {made_for}, not {base_id}")

    def hold(self, published: PublishedAdapter) -> asyncio.Event:
        """Hold the transfer of its weights back until the event is set."""
        return self.held.setdefault(self.weights(published).digest, asyncio.Event())

    def known(self, exact: Reference) -> PublishedAdapter | None:
        return next((v for v in self._versions.get(exact.adapter, ()) if v and v.digest == exact.digest), None)

    def _blob(self, name: str, data: bytes) -> ManifestFile:
        digest = digest_of(data)
        self.blobs[digest] = data
        return ManifestFile(name, digest, len(data))

    def _publish(self, name: str, manifest: Manifest) -> PublishedAdapter:
        adapter = parse_adapter_name(name)
        versions = self._versions.setdefault(adapter, [])
        published = PublishedAdapter(manifest.digest, manifest, f"{name}@{len(versions) + 1}")
        versions.append(published)
        self.tell("CREATED", adapter, published.digest)
        return published


class ToyCombiner:
    """Stacks the weighted factors, whatever the method is called; `density` must not be above 1."""

    def __init__(self) -> None:
        self.calls = 0

    def combine(self, method: CombineMethod, sources: Sequence[CombineSource], into: Path) -> None:
        self.calls += 1
        if dict(method.parameters).get("density", 1) > 1:
            raise InvalidCombination(f"density: expected at most 1, got {method.parameters}")
        parts = [load_file(source.weights) for source in sources]
        names = [f"base_model.model.{MODULE}.lora_{side}.weight" for side in "AB"]
        scaled = [part[names[0]] * np.float32(source.weight) for part, source in zip(parts, sources, strict=True)]
        stacked = {names[0]: np.concatenate(scaled), names[1]: np.concatenate([part[names[1]] for part in parts], 1)}
        rank = len(stacked[names[0]])
        (into / CONFIG_NAME).write_bytes(json_bytes(peft_config(r=rank, lora_alpha=rank)))
        (into / WEIGHTS_NAME).write_bytes(safetensors_bytes(encode(stacked)))

    def compare(self, sources: Sequence[CombineSource], made: Path) -> Deviation:
        return Deviation(0.25 * len(sources), MODULE, float((made / WEIGHTS_NAME).stat().st_size))
