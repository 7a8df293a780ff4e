from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compute_worker import source
from compute_worker.contract import Publication
from compute_worker.runtime.disk import DiskCache
from compute_worker.runtime.eviction import LeastRecentlyUsed
from compute_worker.runtime.incoming import Nobody
from compute_worker.source import RegistrySource
from lorry import RegistryClient, retry
from lorry.errors import (
    AdapterNotFound,
    BlobNotFound,
    Draining,
    IncompatibleAdapter,
    LorryError,
    RegistryUnavailable,
    StorageUnavailable,
    VersionYanked,
)
from lorry.format.compatibility import CarryOver
from lorry.format.digest import digest_of
from lorry.format.manifest import ManifestFile, Recipe, RecipeSource
from lorry.partfile import PartFile
from lorry.rpc.convert import manifest_from_pb
from tests.support.adapters import BASE_NAME, adapter_bytes, base_for, write_adapter
from tests.support.evil_registry import EvilRegistry, evil_registry
from tests.support.registry import running_registry

BASE = base_for()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
async def evil() -> AsyncIterator[tuple[EvilRegistry, RegistrySource]]:
    async with evil_registry() as (registry, address), RegistryClient(address) as client:
        yield registry, RegistrySource(client)


async def test_a_version_comes_with_its_number(evil: tuple[EvilRegistry, RegistrySource]) -> None:
    registry, source = evil
    version = registry.add("plain", *adapter_bytes(), BASE.base_id)
    published = await source.resolve("plain")
    assert (published.digest, published.reference) == (version.digest, "default/plain@1")
    assert published.manifest.digest == version.digest


async def test_who_looked_at_a_file_is_gone_without_a_search_for_cycles(
    evil: tuple[EvilRegistry, RegistrySource], tmp_path: Path
) -> None:
    registry, source = evil
    version = registry.add("plain", *adapter_bytes(), BASE.base_id)
    files = manifest_from_pb(version.manifest).files
    looks: list[weakref.ref[Nobody]] = []

    def look(_: object) -> Nobody:
        looker = Nobody()  # in life it has the tensors of an adapter, and there is one of it for each that comes
        looks.append(weakref.ref(looker))
        return looker

    with ThreadPoolExecutor(2) as executor:
        disk = DiskCache(tmp_path, 1 << 20, executor, LeastRecentlyUsed(), patience=1.0)
        await disk.start()
        gc.disable()
        try:
            async with disk.hold(files, source.fetch, look):
                pass
            assert [looker() for looker in looks] == [None]
        finally:
            gc.enable()
            await disk.close()


@pytest.mark.parametrize("error", [StorageUnavailable, Draining, AdapterNotFound, VersionYanked])
async def test_the_registrys_own_words_pass_as_they_are(
    evil: tuple[EvilRegistry, RegistrySource], error: type[LorryError]
) -> None:
    registry, source = evil
    registry.failure = error("in its own words")
    with pytest.raises(error, match="in its own words"):
        await source.resolve("plain")


async def test_a_registry_that_is_silent_is_unavailable(
    evil: tuple[EvilRegistry, RegistrySource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "RESOLVE_SECONDS", 0.2)
    registry, of_it = evil
    registry.silent = True
    with pytest.raises(RegistryUnavailable):
        await of_it.resolve("plain")


async def test_a_registry_that_is_not_there_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "MAX_FAILURES", 2)
    async with RegistryClient("127.0.0.1:1") as client:
        nowhere = RegistrySource(client)
        with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:1"):
            await nowhere.resolve("plain")
        part = PartFile(tmp_path / "x", digest_of(b"x"), 1)
        with pytest.raises(RegistryUnavailable):
            await nowhere.fetch(ManifestFile("x", digest_of(b"x"), 1), part)
        part.discard()


async def test_the_registrys_verdict_says_whether_a_version_fits(tmp_path: Path) -> None:
    variant, stranger = base_for(seed=1), base_for(seed=2)
    async with running_registry(tmp_path / "registry") as target, RegistryClient(target) as client:
        await client.register_base_model(BASE_NAME, BASE)
        family = {"derived_from": BASE.base_id, "carry_over": CarryOver.WARN}
        await client.register_base_model("variant", variant, **family)
        await client.push(write_adapter(tmp_path / "adapter"), "pirate")
        for base in (BASE, variant):
            await RegistrySource(client).check_fit("pirate", base.base_id)
        await client.update_base_model("variant", carry_over=CarryOver.REFUSE)
        with pytest.raises(IncompatibleAdapter, match=f"BASE_MISMATCH: trained on {BASE.base_id}") as refused:
            await RegistrySource(client).check_fit("pirate", variant.base_id)
        assert refused.value.metadata["findings"] == "BASE_MISMATCH"
        with pytest.raises(IncompatibleAdapter, match=f"knows none of {stranger.base_id}"):
            await RegistrySource(client).check_fit("pirate", stranger.base_id)


async def test_a_file_is_committed_whole_or_not_at_all(
    evil: tuple[EvilRegistry, RegistrySource], tmp_path: Path
) -> None:
    registry, source = evil
    registry.blobs[digest_of(b"bytes")] = b"bytes"
    right, wrong = digest_of(b"bytes"), digest_of(b"other")
    await source.fetch(ManifestFile("x", right, 5), PartFile(tmp_path / "x", right, 5))
    assert (tmp_path / "x").read_bytes() == b"bytes"
    part = PartFile(tmp_path / "y", wrong, 5)
    with pytest.raises(BlobNotFound):
        await source.fetch(ManifestFile("y", wrong, 5), part)
    part.discard()
    assert names_in(tmp_path) == ["x"]


async def test_a_combination_is_published_with_recipe_alias_and_description(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "registry") as address, RegistryClient(address) as client:
        await client.register_base_model(BASE_NAME, BASE)
        parent = await client.push(write_adapter(tmp_path / "parent", seed=1), "parent")
        recipe = Recipe("cat", "{}", (RecipeSource(parent.digest, 1.0),), "test 1")
        folder = write_adapter(tmp_path / "made", seed=2)
        published = await RegistrySource(client).publish(
            folder, Publication("team/mix", "prod", "both of them", recipe, BASE.base_id)
        )
        assert published.reference == "team/mix@1"
        assert (published.manifest.recipe, published.manifest.parents) == (recipe, (parent.digest,))
        assert (await client.resolve("team/mix:prod")).digest == published.digest
        assert (await client.adapter("team/mix")).description == "both of them"
