"""Routes: resident first, swapped in one stroke, never a reload."""

import asyncio

import pytest

from compute_worker.runtime.api import Resolved, Tier, Weighted
from lorry.errors import (
    AdapterInUse,
    AdapterNotFound,
    InvalidName,
    RegistryUnavailable,
    RevisionConflict,
    RouteNotFound,
)
from tests.support.toy_world import World, call, eventually

BY_ROUTE = {"selection": None}


async def test_the_default_route_exists_and_is_the_base(world: World) -> None:
    assert (world.runtime.route("default").revision, world.runtime.route("default").adapters) == (1, ())
    reply = await world.ask(call(**BY_ROUTE))
    assert (reply.started.route, reply.started.route_revision, reply.started.adapters) == ("default", 1, ())


async def test_a_switch_makes_resident_and_swaps(world: World) -> None:
    one = world.registry.add("one")
    state = await world.switch("default", (Weighted("one", 0.5),), None)
    assert (state.revision, state.adapters) == (2, (Resolved("one", one.digest, 0.5),))
    assert world.runtime.residents()[0].tier is Tier.POOL
    request = call(**BY_ROUTE)
    assert (await world.ask(request)).tokens == world.expected(request, (one, 0.5))


async def test_a_new_route_begins_at_revision_one_and_routes_are_listed_by_name(world: World) -> None:
    assert (await world.switch("b", (), 0)).revision == 1
    await world.switch("a", (), None)
    assert [state.name for state in world.runtime.routes()] == ["a", "b", "default"]


async def test_compare_and_swap_lets_one_of_many_win(world: World) -> None:
    world.registry.add("one")
    attempts = [world.switch("default", (Weighted("one"),), 1) for _ in range(8)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    lost = [result for result in results if isinstance(result, RevisionConflict)]
    assert (len(lost), {error.metadata["revision"] for error in lost}) == (7, {"2"})
    assert world.runtime.route("default").revision == 2


@pytest.mark.parametrize("expected", [0, 2])
async def test_another_revision_than_expected_is_refused(world: World, expected: int) -> None:
    with pytest.raises(RevisionConflict, match=f"expected revision {expected}, it has 1"):
        await world.switch("default", (), expected)


async def test_a_switch_that_fails_changes_nothing(world: World) -> None:
    world.registry.add("one")
    before = await world.switch("default", (Weighted("one"),), None)
    with pytest.raises(AdapterNotFound):
        await world.switch("default", (Weighted("none"),), None)
    assert world.runtime.route("default") == before


async def test_a_route_keeps_its_adapters_in_the_pool_until_it_lets_them_go(world: World) -> None:
    for name in ("held", "b", "c"):
        world.registry.add(name, rank=6)
    await world.switch("default", (Weighted("held"),), None)
    for name in ("b", "c", "b"):
        await world.runtime.load(name)
    with pytest.raises(AdapterInUse, match="1 routes use"):
        await world.runtime.unload("held")
    assert len(world.engine.installs) == 4
    assert (await world.ask(call(**BY_ROUTE))).started.adapters[0].adapter == "held"
    await world.switch("default", (), None)
    assert (await world.runtime.unload("held"))[1]


async def test_a_route_that_keeps_an_adapter_over_a_switch_never_loses_it(world: World) -> None:
    world.registry.add("one")
    for weight in (1.0, 0.5):
        await world.switch("default", (Weighted("one", weight),), None)
    assert len(world.engine.installs) == 1
    with pytest.raises(AdapterInUse):
        await world.runtime.unload("one")


async def test_a_request_keeps_what_it_started_with(world: World) -> None:
    one = world.registry.add("one")
    await world.switch("default", (Weighted("one"),), None)
    world.engine.running.clear()
    request = call(**BY_ROUTE)
    running_request = asyncio.create_task(world.ask(request))
    await eventually(lambda: world.budget("kv_tokens") > 0)
    await world.switch("default", (), None)
    world.engine.running.set()
    assert (await running_request).tokens == world.expected(request, (one, 1.0))


async def test_routes_hold_digests_and_serve_while_the_registry_is_down(world: World) -> None:
    one = world.registry.add("one")
    await world.switch("default", (Weighted("one"),), None)
    world.registry.add("one", rank=5)
    world.registry.down = True
    assert (await world.ask(call(**BY_ROUTE))).started.adapters[0].digest == one.digest
    with pytest.raises(RegistryUnavailable):
        await world.switch("other", (Weighted("one"),), None)


async def test_routes_have_names_and_unknown_ones_are_not_found(world: World) -> None:
    with pytest.raises(InvalidName):
        await world.switch("No Route", (), None)
    with pytest.raises(RouteNotFound, match="no route 'none'"):
        world.runtime.route("none")
    with pytest.raises(RouteNotFound):
        await world.ask(call(route="none", **BY_ROUTE))
