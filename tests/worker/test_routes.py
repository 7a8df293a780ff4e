from __future__ import annotations

import asyncio

import pytest

from lorry.errors import AdapterNotFound, InvalidPageToken, RevisionConflict
from lorry.v1.residency_pb2 import TIER_POOL
from tests.support.pair import Pair
from tests.support.registry import until
from tests.support.worker import tiny_adapter


async def test_default_is_there_from_the_start_and_is_the_base(pair: Pair) -> None:
    route = await pair.worker.route()
    assert (route.name, route.revision, list(route.adapters)) == ("default", 1, [])
    assert (await pair.answer(None)).same_as(await pair.answer([]))


async def test_a_request_by_route_is_told_which_revision_serves_it(pair: Pair) -> None:
    version = await pair.publish("first")
    route = await pair.worker.switch({"first": 0.5}, route="news")
    assert (route.name, route.revision) == ("news", 1)
    assert [(a.digest, a.weight, a.adapter) for a in route.adapters] == [(version.digest, 0.5, "first")]
    (target,) = route.targets
    assert [(a.adapter, a.weight) for a in target.selection.adapters] == [("first", 0.5)]
    started = (await pair.stubs.generate(text="x", route="news", stop={"max_new_tokens": 1}))[0].started
    assert (started.route, started.route_revision) == ("news", 1)
    assert list(started.adapters) == list(route.adapters)


async def test_a_route_that_was_written_by_number_stays_on_it(pair: Pair) -> None:
    first = await pair.publish("moving", seed=1)
    await pair.worker.switch("moving@1")
    before = await pair.answer(None)
    second = await pair.registry.push(tiny_adapter(pair.path("later"), seed=2), "moving")
    assert (await pair.worker.route()).adapters[0].digest == first.digest
    assert (await pair.answer(None)).same_as(before)
    route = await pair.worker.switch("moving")
    assert route.adapters[0].digest == second.digest
    assert not (await pair.answer(None)).same_as(before)


async def test_a_switch_compares_and_swaps(pair: Pair) -> None:
    await pair.publish("first")
    assert (await pair.worker.switch("first", route="news", expected_revision=0)).revision == 1
    with pytest.raises(RevisionConflict):
        await pair.worker.switch([], route="news", expected_revision=0)
    assert (await pair.worker.switch([], route="news", expected_revision=1)).revision == 2


async def test_of_many_who_swap_from_one_revision_one_wins(pair: Pair) -> None:
    names = [f"a{number}" for number in range(6)]
    for name in names:
        await pair.publish(name)
    swaps = [pair.worker.switch(name, expected_revision=1) for name in names]
    outcomes = await asyncio.gather(*swaps, return_exceptions=True)
    (winner,) = [each for each in outcomes if not isinstance(each, BaseException)]
    assert all(isinstance(each, RevisionConflict) for each in outcomes if each is not winner)
    assert await pair.worker.route() == winner


async def test_a_switch_that_fails_leaves_the_route_as_it_was(pair: Pair) -> None:
    await pair.publish("first")
    before = await pair.worker.switch("first")
    with pytest.raises(AdapterNotFound):
        await pair.worker.switch(["first", "nobody"])
    assert await pair.worker.route() == before


async def test_what_a_route_uses_is_resident_before_anybody_asks(pair: Pair) -> None:
    version = await pair.publish("first")
    await pair.worker.switch("first")
    (resident,) = [each async for each in pair.worker.residents()]
    assert (resident.digest, resident.tier, resident.loads) == (version.digest, TIER_POOL, 1)


async def test_a_running_request_keeps_what_it_started_with(pair: Pair) -> None:
    for name in ("old", "new"):
        await pair.publish(name)
        await pair.worker.load(name)
    await pair.worker.switch("old")
    alone = await pair.answer(None, length=200)
    running = [asyncio.create_task(pair.answer(None, length=200)) for _ in range(3)]

    async def admitted() -> bool:
        leases = [each.leases async for each in pair.worker.residents() if "old" in each.names]
        return leases == [3] and not await pair.used("queue")

    await until(admitted)
    for name in ("new", "old", "new"):
        await pair.worker.switch(name)
    assert not any(task.done() for task in running)
    assert all(answer.same_as(alone) for answer in await asyncio.gather(*running))
    assert (await pair.answer(None)).same_as(await pair.answer("new"))


async def test_routes_are_listed_by_name_in_pages(pair: Pair) -> None:
    for name in ("b", "a", "z"):
        await pair.worker.switch([], route=name)
    pages, token = [], ""
    while True:
        page = await pair.stubs.call("ListRoutes", page_size=2, page_token=token)
        pages.append([route.name for route in page.routes])
        token = page.next_page_token
        if not token:
            break
    assert pages == [["a", "b"], ["default", "z"]]
    assert [route.name async for route in pair.worker.routes()] == ["a", "b", "default", "z"]


async def test_a_token_of_one_list_is_none_of_the_other(pair: Pair) -> None:
    for name in ("a", "b"):
        await pair.worker.switch([], route=name)
    token = (await pair.stubs.call("ListRoutes", page_size=1)).next_page_token
    with pytest.raises(InvalidPageToken):
        await pair.stubs.call("ListResident", page_token=token)
