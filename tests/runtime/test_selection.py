"""References become digests once a request, and never by a guess."""

from dataclasses import replace
from pathlib import Path

import pytest

from compute_worker.contract import PublishedAdapter
from compute_worker.runtime.api import Weighted
from compute_worker.runtime.selection import MAX_ADAPTERS
from lorry.errors import AdapterNotFound, DigestMismatch, InvalidReference, InvalidSelection, RegistryUnavailable
from lorry.format.digest import digest_of
from tests.support.toy_registry import ToyRegistry
from tests.support.toy_world import World, call, running


async def test_a_name_is_asked_for_once_a_request_and_again_with_the_next(world: World) -> None:
    old = world.registry.add("one")
    assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == old.digest
    assert world.registry.resolved == {"one": 1}
    new = world.registry.add("one", rank=4)
    assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == new.digest
    assert (await world.ask(call("hello", "one@1"))).started.adapters[0].digest == old.digest


async def test_a_digest_that_was_met_is_answered_while_the_registry_is_down(world: World) -> None:
    one = world.registry.add("one")
    await world.ask(call("hello", "one"))
    world.registry.down = True
    request = call("hello", f"one@{one.digest}")
    assert (await world.ask(request)).tokens == world.expected(request, (one, 1.0))
    assert world.registry.resolved == {"one": 1}


@pytest.mark.parametrize("reference", ["one", "one@1", "one:prod"])
async def test_a_name_is_not_guessed_while_the_registry_is_down(world: World, reference: str) -> None:
    world.registry.add("one")
    await world.ask(call("hello", "one"))
    world.registry.down = True
    with pytest.raises(RegistryUnavailable):
        await world.ask(call("hello", reference))


async def test_a_digest_is_another_adapters_until_the_registry_says_so(world: World) -> None:
    one = world.registry.add("one")
    await world.runtime.load("one")
    with pytest.raises(AdapterNotFound):
        await world.runtime.load(f"two@{one.digest}")


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 65505.0, -1e39])
async def test_a_weight_that_a_step_cannot_compute_with_is_refused(world: World, weight: float) -> None:
    world.registry.add("one")
    with pytest.raises(InvalidSelection, match="expected a finite weight, from -65504 to 65504"):
        await world.ask(call("hello", Weighted("one", weight)))


async def test_so_is_one_that_the_requests_scale_makes(world: World) -> None:
    world.registry.add("one")
    with pytest.raises(InvalidSelection, match="one times 1e\\+38: expected a finite weight"):
        await world.ask(replace(call("hello", Weighted("one", 2.0)), scale=1e38))


async def test_the_same_version_twice_is_refused_whatever_it_is_called(world: World) -> None:
    world.registry.add("one")
    with pytest.raises(InvalidSelection, match="one and one@1 are the same version"):
        await world.ask(call("hello", "one", "one@1"))


async def test_a_selection_has_a_most(world: World) -> None:
    with pytest.raises(InvalidSelection, match="at most 16 adapters, got 17"):
        await world.ask(call("hello", *(f"a{n}" for n in range(MAX_ADAPTERS + 1))))


async def test_a_reference_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(InvalidReference):
        await world.ask(call("hello", "one@latest"))


class Liar(ToyRegistry):
    """Answers with another version than was asked for, or under another's digest."""

    def __init__(self, *, swap_manifest: bool) -> None:
        super().__init__()
        self.swap_manifest = swap_manifest

    async def resolve(self, reference: str) -> PublishedAdapter:  # noqa: ARG002 - not what it answers
        if self.swap_manifest:
            return replace(await super().resolve("one"), digest=digest_of(b"claimed"))
        return await super().resolve("one")


async def test_an_answer_that_does_not_bear_its_digest_out_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, registry=Liar(swap_manifest=True)) as world:
        world.registry.add("one")
        with pytest.raises(DigestMismatch, match="expected the manifest of"):
            await world.runtime.load("one")


async def test_another_version_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, registry=Liar(swap_manifest=False)) as world:
        world.registry.add("one")
        with pytest.raises(DigestMismatch, match="the registry answered"):
            await world.runtime.load(f"one@{digest_of(b'asked for')}")


async def test_a_restarted_worker_serves_from_its_disk_without_fetching(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = registry.add("one")
    for _ in range(2):
        async with running(tmp_path, registry=registry) as world:
            request = call("hello", "one")
            assert (await world.ask(request)).tokens == world.expected(request, (one, 1.0))
    assert set(registry.fetched.values()) == {1}
