"""A registry in memory for the runtime's tests: real bundles, real digests, real refusals.

Counts what is fetched, can be taken down, can hold a transfer back and can send wrong bytes. Also a
combiner that writes real adapters (stacked factors).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from compute_worker.contract import CombineMethod, CombineSource, Publication, PublishedAdapter
from lorry.errors import AdapterNotFound, InvalidCombination, RegistryUnavailable, VersionNotFound
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME, check_bundle
from lorry.format.derive import outline
from lorry.format.digest import digest_of
from lorry.format.header import header_length
from lorry.format.manifest import ManifestFile, Recipe, build_manifest
from lorry.format.reference import parse_adapter_name, parse_reference
from tests.support.adapters import adapter_bytes, encode, json_bytes, peft_config, safetensors_bytes
from tests.support.toy_engine import BASE, MODULE, WIDTH, content_of


class ToyRegistry:
    """An AdapterSource."""

    def __init__(self) -> None:
        self.down = False
        self.fetched: Counter[str] = Counter()  # by digest
        self.resolved: Counter[str] = Counter()  # by reference
        self.publications: list[Publication] = []
        self.corrupt: set[str] = set()  # digests that are sent with a bit flipped
        self.held: dict[str, asyncio.Event] = {}  # digests whose transfer waits
        self.blobs: dict[str, bytes] = {}
        self._versions: dict[str, list[PublishedAdapter]] = {}

    def add(
        self, name: str, rank: int = 2, *, seed: int | None = None, base_id: str = BASE.base_id, **options: object
    ) -> PublishedAdapter:
        """Publish a fresh adapter; equal arguments give equal bytes."""
        seed = sum(name.encode()) * 100 + rank if seed is None else seed
        config, weights = adapter_bytes({MODULE: (WIDTH, WIDTH, rank)}, seed=seed, **options)
        return self.add_bytes(name, config, weights, base_id)

    def add_bytes(self, name: str, config: bytes, weights: bytes, base_id: str = BASE.base_id) -> PublishedAdapter:
        """Publish these bytes. The weights' values are not looked at."""
        facts = outline(config, weights[: header_length(weights[:8])], len(weights))
        files = [self._blob(CONFIG_NAME, config), self._blob(WEIGHTS_NAME, weights)]
        return self._publish(name, build_manifest(files, facts, base_id))

    def content(self, published: PublishedAdapter) -> str:
        """What the toy engine's rows hold of it."""
        return content_of(self.blobs[self.weights(published).digest])

    def weights(self, published: PublishedAdapter) -> ManifestFile:
        return next(file for file in published.manifest.files if file.name == WEIGHTS_NAME)

    async def resolve(self, reference: str) -> PublishedAdapter:
        await asyncio.sleep(0)
        self._check_up()
        self.resolved[reference] += 1
        asked = parse_reference(reference)
        versions = self._versions.get(str(asked.adapter))
        if not versions:
            raise AdapterNotFound(f"no adapter {asked.adapter}")
        if asked.digest is None:
            return versions[-1 if asked.number is None else asked.number - 1]
        found = [version for version in versions if version.digest == asked.digest]
        if not found:
            raise VersionNotFound(f"no version {reference}")
        return found[0]

    async def fetch(self, file: ManifestFile, into: Path) -> None:
        self._check_up()
        self.fetched[file.digest] += 1
        if file.digest in self.held:
            await self.held[file.digest].wait()
        self._check_up()
        data = bytearray(self.blobs[file.digest])
        if file.digest in self.corrupt:
            data[-1] ^= 1
        await asyncio.to_thread(into.write_bytes, data)

    async def publish(self, directory: Path, publication: Publication) -> PublishedAdapter:
        self._check_up()
        self.publications.append(publication)
        bundle = check_bundle(directory)
        for file in bundle.files:
            self._blob(file.name, bundle.path(file).read_bytes())
        recipe: Recipe = publication.recipe
        parents = [source.digest for source in recipe.sources]
        manifest = build_manifest(bundle.files, bundle.facts, publication.base_id, parents, recipe)
        return self._publish(publication.adapter, manifest)

    def hold(self, published: PublishedAdapter) -> asyncio.Event:
        """Hold the transfer of its weights back until the event is set."""
        return self.held.setdefault(self.weights(published).digest, asyncio.Event())

    def _blob(self, name: str, data: bytes) -> ManifestFile:
        digest = digest_of(data)
        self.blobs[digest] = data
        return ManifestFile(name, digest, len(data))

    def _publish(self, name: str, manifest: object) -> PublishedAdapter:
        versions = self._versions.setdefault(str(parse_adapter_name(name)), [])
        versions.append(PublishedAdapter(manifest.digest, manifest, f"{name}@{len(versions) + 1}"))
        return versions[-1]

    def _check_up(self) -> None:
        if self.down:
            raise RegistryUnavailable("the registry does not answer")


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
