"""Who may reach what: namespaces of versions, of combinations, and what a combination gives away."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from compute_worker.runtime.api import Weighted
from compute_worker.runtime.rights import ALL_RIGHTS, Permission, Rights, acting
from compute_worker.runtime.routebook import RouteBook
from lorry.errors import AdapterNotFound, PermissionDenied, QuotaExceeded
from lorry.format.reference import parse_reference
from tests.support.toy_registry import ToyRegistry
from tests.support.toy_world import World, call, eventually, running

READ, PUSH = Permission.READ, Permission.PUSH
A, B = frozenset({"a"}), frozenset({"b"})


@pytest.mark.parametrize(
    ("scopes", "homes", "reached"),
    [
        ({"a": READ}, (A,), True),
        ({"a": READ}, (B,), False),
        ({"a": READ}, (A | B,), True),
        ({"a": READ}, (A, B), False),
        ({"a": PUSH, "b": READ}, (A, B), True),
        ({"*": READ}, (A, B), True),
        ({"*": READ}, (frozenset(),), True),
        ({"a": READ}, (frozenset(),), False),
        ({}, (), True),
    ],
)
def test_one_home_of_each_must_be_open(
    scopes: dict[str, int], homes: tuple[frozenset[str], ...], *, reached: bool
) -> None:
    assert Rights(scopes).reach(READ, homes) is reached


def test_a_permission_includes_the_smaller_ones_and_no_greater() -> None:
    rights = Rights({"a": PUSH})
    rights.require(READ, (A,))
    with pytest.raises(PermissionDenied, match="admin"):
        rights.require(Permission.ADMIN, (A,))
    rights.require_somewhere(PUSH)
    with pytest.raises(PermissionDenied):
        Rights({"a": READ}).require_somewhere(PUSH)


async def test_a_combination_is_for_those_who_may_read_all_of_its_sources(world: World) -> None:
    world.registry.add("a/one")
    world.registry.add("b/two")
    combined = await world.combine("a/one", "b/two")
    assert world.runtime.homes(combined.adapter) == (A, B)
    for scopes, homes in [({"a": READ}, (frozenset({"default"}),)), ({"a": READ, "b": READ}, (A, B))]:
        with acting(Rights(scopes)):
            assert world.runtime.homes(combined.adapter) == homes
    with acting(Rights({"a": READ, "default": READ})), pytest.raises(AdapterNotFound):
        await world.ask(call("hello", combined.adapter))
    with acting(Rights({"a": READ, "b": READ})):
        await world.ask(call("hello", combined.adapter))


async def test_a_combination_of_a_combination_keeps_all_its_homes_over_a_restart(tmp_path: Path) -> None:
    registry = ToyRegistry()
    for name in ("a/one", "b/two", "c/three"):
        registry.add(name)
    async with running(tmp_path, registry=registry) as world:
        first = await world.combine("a/one", "b/two")
        second = await world.combine(first.adapter, "c/three")
    async with running(tmp_path, registry=registry) as world:
        assert world.runtime.homes(second.adapter) == (A, B, frozenset({"c"}))


async def test_the_same_recipe_from_another_home_opens_the_result_to_those_of_that_home(world: World) -> None:
    one, twin = world.registry.add("a/one", seed=1), world.registry.add("b/one", seed=1)
    assert one.digest == twin.digest
    first, again = await world.combine("a/one"), await world.combine("b/one")
    assert (first.adapter, again.existed) == (again.adapter, True)
    assert world.runtime.homes(again.adapter) == (A | B,)


async def test_residents_and_routes_know_their_homes(world: World) -> None:
    world.registry.add("a/one", seed=1)
    world.registry.add("b/one", seed=1)
    for name in ("a/one", "b/one"):
        await world.runtime.load(name)
    assert [state.homes for state in world.runtime.residents()] == [(A | B,)]
    await world.switch("news", (Weighted("a/one"),), None)
    assert world.runtime.route_homes("news") == (A,)
    assert world.runtime.route_homes("none") == world.runtime.route_homes("default") == ()


async def test_without_access_control_everybody_may_do_everything() -> None:
    assert ALL_RIGHTS.reach(Permission.ADMIN, (A, B))


async def test_what_tenants_keep_leaves_rows_to_requests(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        rows = world.engine.limits.pool_rows
        for name, rank in (("a/one", rows * 3 // 8), ("a/two", rows * 3 // 8), ("b/small", 1), ("b/other", 1)):
            world.registry.add(name, rank=rank)
        pin, tenants = world.runtime.pin, Rights({"a": PUSH, "b": PUSH})
        with acting(tenants):
            await pin("a/one")
            await world.switch("live", (Weighted("a/two"),), None)
            for keep in (lambda: pin("b/small"), lambda: world.switch("new", (Weighted("b/small"),), None)):
                with pytest.raises(QuotaExceeded, match=f"at most {rows * 3 // 4} of the pool's {rows} rows"):
                    await keep()
            await world.ask(call("hello", "b/small"))
            await pin("a/one")  # is kept already
        await pin("b/small")  # by who may do everything
        with acting(tenants):
            with pytest.raises(QuotaExceeded):
                await pin("b/other")
            await world.switch("live", (Weighted("b/other"),), None)  # in the place of more
            await world.switch("new", (Weighted("b/small"),), None)


async def test_a_route_is_bound_by_its_share_also_where_it_follows(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await world.listening()
        rows = world.engine.limits.pool_rows
        for name in ("a/one", "a/two"):
            world.registry.add(name, rank=1)
        with acting(Rights({"a": PUSH}, "a")):
            await world.switch("bound", (Weighted("a/one"),), None)
        await world.switch("free", (Weighted("a/two"),), None)  # by who may do everything
        for name in ("a/one", "a/two"):
            world.registry.add(name, rank=rows - 2)
        await eventually(lambda: world.runtime.route("free").revision == 2)
        await eventually(lambda: world.runtime._held.resolver._names.get(parse_reference("a/one")) is not None)
        assert world.runtime.route("bound").revision == 1


@pytest.fixture
async def combined(tmp_path: Path) -> AsyncIterator[tuple[World, str]]:
    """A combination of what is a's, on a's route `prod`."""
    async with running(tmp_path) as world:
        for name in ("a/one", "a/two"):
            world.registry.add(name)
        with acting(Rights({"a": PUSH}, "a")):
            made = await world.combine("a/one", "a/two")
            await world.switch("prod", (Weighted(made.adapter),), None)
        yield world, made.adapter


async def test_a_route_to_a_combination_is_open_to_who_may_reach_its_sources(combined: tuple[World, str]) -> None:
    world, _ = combined
    by_route = call(selection=None, route="prod")
    assert world.runtime.route_homes("prod") == (A,)
    with acting(Rights({"a": READ}, "reader")):
        await world.ask(by_route)
    with acting(Rights({"default": PUSH}, "stranger")):
        with pytest.raises(PermissionDenied):
            await world.ask(by_route)
        with pytest.raises(PermissionDenied):
            await world.switch("prod", (), None)
        with pytest.raises(PermissionDenied):
            world.runtime.delete_route("prod", None)


async def test_it_stays_so_over_restarts_whatever_becomes_of_the_combination(combined: tuple[World, str]) -> None:
    world, adapter = combined
    book = RouteBook(world.cache_dir / "routes", world.engine.base.base_id)
    ((kept,),) = book.read()
    assert kept == world.runtime.route("prod")
    # As it was written before homes were kept: whose it is nobody knows, so it is nobody's.
    path = world.cache_dir / "routes" / "prod.json"
    said = json.loads(path.read_bytes())
    del said["history"][0]["homes"]
    path.write_text(json.dumps(said))
    ((old,),) = book.read()
    assert [each.adapter for each in old.adapters] == [adapter]
    assert old.homes == (frozenset(),)


async def test_a_request_is_judged_by_what_its_route_is_when_it_is_served(world: World) -> None:
    world.registry.add("b/secret")
    await world.switch("prod", (Weighted("b/secret"),), None)
    with acting(Rights({"a": READ}, "judged by the route that was there before")), pytest.raises(PermissionDenied):
        await world.ask(call(selection=None, route="prod"))


@pytest.mark.parametrize("change", ["switch", "roll back"])
async def test_a_route_that_became_anothers_while_adapters_were_loaded_stays_so(tmp_path: Path, change: str) -> None:
    mine, theirs = Rights({"a": PUSH}, "a"), Rights({"b": PUSH}, "b")
    async with running(tmp_path) as world:
        one = world.registry.add("a/one", 2, seed=1)
        world.registry.add("b/good", 2, seed=2)
        if change == "roll back":
            await world.switch("prod", (Weighted("a/one"),), None)
            await world.switch("prod", (), None)
            await world.runtime.unload("a/one")
            world.runtime._held.disk.discard(world.registry.weights(one).digest)
        gate, fetched = world.registry.hold(one), world.registry.fetched[world.registry.weights(one).digest]
        with acting(mine):
            begun = asyncio.create_task(
                world.switch("prod", (Weighted("a/one"),), None)
                if change == "switch"
                else world.runtime.rollback("prod", 1, None)
            )
        await eventually(lambda: world.registry.fetched[world.registry.weights(one).digest] > fetched)
        with acting(theirs):
            made = await world.switch("prod", (Weighted("b/good"),), None)
        gate.set()
        with pytest.raises(PermissionDenied):
            await begun
        assert world.runtime.route("prod") == made
