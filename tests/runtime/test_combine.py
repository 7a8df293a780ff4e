"""Combine: one computation a recipe, the same guard as for any adapter, and a way back to the registry."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from compute_worker.combination import CombineMethod
from compute_worker.runtime.api import CombineCall, Combined, PublishAs, Tier, Weighted
from compute_worker.runtime.combinations import Combinations
from compute_worker.runtime.rights import Homes
from compute_worker.runtime.version import Version
from lorry.errors import InvalidCombination, InvalidName, LorryError, RegistryUnavailable, VersionNotFound
from lorry.format.manifest import Manifest
from tests.support.toy_engine import content_of
from tests.support.toy_registry import ToyRegistry
from tests.support.toy_world import World, call, running

CAT = CombineMethod("cat")


def recipe(*sources: str | Weighted, method: CombineMethod = CAT, publish: PublishAs | None = None) -> CombineCall:
    weighted = tuple(Weighted(source) if isinstance(source, str) else source for source in sources)
    return CombineCall(weighted, method, publish)


def add_sources(world: World) -> None:
    for name, rank in (("one", 2), ("two", 3)):
        world.registry.add(name, rank=rank)


async def test_a_combination_is_resident_under_its_recipe_and_serves(world: World) -> None:
    add_sources(world)
    made = await world.runtime.combine(recipe("one", Weighted("two", 0.5)))
    assert made.adapter == f"combined@{made.recipe_digest}"
    assert (made.existed, made.published) == (False, None)
    state = made.resident
    assert (state.digest, state.tier, state.rank, state.combined) == (made.recipe_digest, Tier.POOL, 5, True)
    reply = await world.ask(call("hello", made.adapter))
    assert reply.started.adapters[0].digest == made.recipe_digest
    assert reply.tokens != (await world.ask(call("hello"))).tokens


async def test_the_same_recipe_is_computed_once(world: World) -> None:
    add_sources(world)
    made = await asyncio.gather(*(world.runtime.combine(recipe("one", "two")) for _ in range(8)))
    again = await world.runtime.combine(recipe("one@1", "two@1"))
    assert {one.recipe_digest for one in made} == {again.recipe_digest}
    assert (again.existed, world.combiner.calls) == (True, 1)


async def test_another_weight_method_or_parameter_is_another_recipe(world: World) -> None:
    add_sources(world)
    calls = [
        recipe("one", "two"),
        recipe("one", Weighted("two", 0.5)),
        recipe("one", "two", method=CombineMethod("ties", (("density", 0.5),))),
        recipe("one", "two", method=CombineMethod("ties", (("density", 0.6),))),
    ]
    digests = {(await world.runtime.combine(one)).recipe_digest for one in calls}
    assert (len(digests), world.combiner.calls) == (4, 4)


async def test_a_result_that_a_full_disk_loses_before_it_is_loaded_is_made_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_sources(world)
    add = Combinations.add

    def lose(made: Combinations, digest: str, manifest: Manifest, homes: Homes) -> Version:
        if world.combiner.calls == 1:
            (world.cache_dir / "blobs" / manifest.files[-1].digest.removeprefix("sha256:")).unlink()
        return add(made, digest, manifest, homes)

    monkeypatch.setattr(Combinations, "add", lose)
    made = await world.runtime.combine(recipe("one", "two"))
    assert (made.resident.tier, world.combiner.calls) == (Tier.POOL, 2)


async def test_a_combination_of_combinations_is_possible_here(world: World) -> None:
    add_sources(world)
    inner = await world.runtime.combine(recipe("one", "two"))
    outer = await world.runtime.combine(recipe(inner.adapter, "one"))
    assert outer.resident.rank == 7


async def test_publishing_pushes_the_files_with_recipe_and_parents(world: World) -> None:
    add_sources(world)
    one, two = [await world.registry.resolve(name) for name in ("one", "two")]
    made: Combined = await world.runtime.combine(
        recipe("one", Weighted("two", -1.0), publish=PublishAs("both", "prod", "made of two"))
    )
    assert made.published is not None
    manifest = made.published.manifest
    assert manifest.parents == (one.digest, two.digest)
    assert manifest.recipe is not None
    assert [source.weight for source in manifest.recipe.sources] == [1.0, -1.0]
    assert (manifest.recipe.method, manifest.recipe.tool) == ("cat", "lorry test")
    publication = world.registry.publications[0]
    assert (publication.adapter, publication.alias, publication.description) == ("both", "prod", "made of two")
    published, local = call("hello", "both"), call("hello", made.adapter)
    assert (await world.ask(published)).tokens == (await world.ask(local)).tokens


async def test_what_was_made_before_can_be_published_later(world: World) -> None:
    add_sources(world)
    await world.runtime.combine(recipe("one", "two"))
    made = await world.runtime.combine(recipe("one", "two", publish=PublishAs("both")))
    assert made.existed
    assert made.published is not None
    assert world.combiner.calls == 1


async def test_an_unpublished_combination_cannot_be_a_parent(world: World) -> None:
    add_sources(world)
    inner = await world.runtime.combine(recipe("one", "two"))
    with pytest.raises(InvalidCombination, match=r"publish combined@sha256:[0-9a-f]+ first"):
        await world.runtime.combine(recipe(inner.adapter, "one", publish=PublishAs("outer")))
    assert world.combiner.calls == 1


async def test_a_dry_run_says_what_it_would_be_and_keeps_nothing(world: World) -> None:
    add_sources(world)
    asked = recipe("one", "two", publish=PublishAs("both"))
    tried = await asyncio.gather(*(world.runtime.combine(replace(asked, dry_run=True)) for _ in range(4)))
    assert {(one.existed, one.adapter, one.resident, one.published) for one in tried} == {(False, "", None, None)}
    dry = tried[0].dry
    assert dry is not None
    assert (dry.rank, dry.deviation.relative_error) == (5, 0.5)
    assert world.combiner.calls == 1
    assert (world.runtime.residents(), world.registry.publications) == ([], [])
    assert list((world.cache_dir / "combined").iterdir()) == []
    made = await world.runtime.combine(recipe("one", "two"))
    assert (made.existed, made.recipe_digest) == (False, tried[0].recipe_digest)
    assert (await world.runtime.combine(replace(asked, dry_run=True))).existed


async def test_a_dry_run_of_what_has_no_meaning_is_refused_likewise(world: World) -> None:
    add_sources(world)
    asked = recipe("one", "two", method=CombineMethod("ties", (("density", 2.0),)))
    with pytest.raises(InvalidCombination, match="at most 1"):
        await world.runtime.combine(replace(asked, dry_run=True))


BAD: list[tuple[CombineCall, type[LorryError], str]] = [
    (recipe(), InvalidCombination, "one source at least"),
    (recipe("one", "one@1"), InvalidCombination, "same version"),
    (recipe("one", Weighted("two", float("nan"))), InvalidCombination, "finite weight"),
    (recipe("one", "two", method=CombineMethod("ties", (("density", float("inf")),))), InvalidCombination, "finite"),
    (recipe("one", "two", method=CombineMethod("ties", (("density", 2.0),))), InvalidCombination, "at most 1"),
    (recipe("one", "two", publish=PublishAs("No Name")), InvalidName, "expected 1 to 63"),
    (recipe("one", "two", publish=PublishAs("both", "No Alias")), InvalidName, "alias"),
]


@pytest.mark.parametrize(("asked", "error", "message"), BAD, ids=[message for _, _, message in BAD])
async def test_a_recipe_without_meaning_is_refused_and_leaves_nothing(
    world: World, asked: CombineCall, error: type[LorryError], message: str
) -> None:
    add_sources(world)
    with pytest.raises(error, match=message):
        await world.runtime.combine(asked)
    assert world.runtime.residents() == []
    assert list((world.cache_dir / "combined").iterdir()) == []


async def test_a_combination_is_evicted_and_reloaded_like_any_adapter(tmp_path: Path) -> None:
    async with running(tmp_path, host_bytes=0) as world:
        add_sources(world)
        world.registry.add("big", rank=14)
        made = await world.runtime.combine(recipe("one", "two"))
        before = (await world.ask(call("hello", made.adapter))).tokens
        await world.runtime.load("big")
        assert {state.digest: state.tier for state in world.runtime.residents()}[made.recipe_digest] is Tier.DISK
        assert (await world.ask(call("hello", made.adapter))).tokens == before


async def test_a_restart_finds_combinations_and_serves_them_without_the_registry(tmp_path: Path) -> None:
    registry = ToyRegistry()
    async with running(tmp_path, registry=registry) as world:
        add_sources(world)
        made = await world.runtime.combine(recipe("one", "two"))
        tokens = (await world.ask(call("hello", made.adapter))).tokens
    registry.down = True
    async with running(tmp_path, registry=registry) as world:
        assert (await world.ask(call("hello", made.adapter))).tokens == tokens
        assert world.combiner.calls == 0


async def test_a_damaged_combination_is_dropped_and_computed_again(tmp_path: Path) -> None:
    registry = ToyRegistry()
    async with running(tmp_path, registry=registry) as world:
        add_sources(world)
        made = await world.runtime.combine(recipe("one", "two"))
        content = world.engine.installs[-1]
    blob = next(path for path in (tmp_path / "blobs").iterdir() if content == content_of(path.read_bytes()))
    blob.write_bytes(bytes(len(blob.read_bytes())))
    async with running(tmp_path, registry=registry) as world:
        with pytest.raises(VersionNotFound, match="combine its sources again"):
            await world.ask(call("hello", made.adapter))
        again = await world.runtime.combine(recipe("one", "two"))
        assert (again.existed, again.recipe_digest) == (False, made.recipe_digest)
        assert world.engine.installs == [content]


async def test_a_record_that_does_not_bear_its_name_out_is_removed(tmp_path: Path) -> None:
    registry = ToyRegistry()
    async with running(tmp_path, registry=registry) as world:
        add_sources(world)
        made = await world.runtime.combine(recipe("one", "two"))
    record = next((tmp_path / "combined").iterdir())
    record.rename(record.with_name("0" * 64 + ".json"))
    (tmp_path / "combined" / "half.tmp").write_text("{")
    registry.down = True
    async with running(tmp_path, registry=registry) as world:
        assert list((tmp_path / "combined").iterdir()) == []
        with pytest.raises(RegistryUnavailable):
            await world.ask(call("hello", made.adapter))
