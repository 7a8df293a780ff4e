"""What is counted of routes: by branch and by what serves it, whatever becomes of the request."""

import asyncio
from contextlib import aclosing

import pytest

from compute_worker.runtime.api import Resolved, RouteTarget, Started, Weighted
from compute_worker.runtime.route import selection_digest
from compute_worker.runtime.traffic import Label, Traffic
from lorry.errors import InvalidInput, VersionYanked
from lorry.format.digest import is_digest
from tests.support.toy_world import World, call

BY_ROUTE = {"selection": None}


def counted(world: World) -> dict[Label, tuple[int, int, int]]:
    """Requests, errors and tokens by label."""
    named = world.runtime.figures().traffic.by_label.named
    return {label: (r.count, r.errors, r.tokens) for label, r in named.items()}


async def test_requests_count_for_the_branch_and_the_selection_that_served_them(world: World) -> None:
    one = world.registry.add("one")
    await world.switch("news", (Weighted("one"),), None)
    tokens = [len((await world.ask(call(prompt, route="news", **BY_ROUTE))).tokens) for prompt in ("a", "b")]
    await world.switch("news", (), None)
    tokens.append(len((await world.ask(call("c", route="news", **BY_ROUTE))).tokens))
    await world.ask(call("by itself", "one"))
    assert counted(world) == {
        ("news", "1", one.digest): (2, 0, tokens[0] + tokens[1]),
        ("news", "1", "base"): (1, 0, tokens[2]),
    }
    seconds = world.runtime.figures().traffic.by_label.named["news", "1", "base"].seconds
    assert (sum(seconds.counts), seconds.total > 0) == (1, True)


async def test_sessions_count_for_what_they_keep(world: World) -> None:
    one = world.registry.add("one")
    await world.runtime.switch("news", (RouteTarget((Weighted("one"),), name="a"),), None)
    await world.ask(call(route="news", session="s", **BY_ROUTE))
    await world.switch("news", (), None)
    await world.ask(call(session="s", **BY_ROUTE))
    assert {label: requests for label, (requests, *_) in counted(world).items()} == {("news", "a", one.digest): 2}


async def test_errors_and_those_who_left_are_told_apart(world: World) -> None:
    await world.listening()
    one = world.registry.add("one")
    await world.switch("default", (Weighted("one"),), None)
    async with aclosing(world.runtime.generate(call(max_new=100, **BY_ROUTE))) as items:
        assert isinstance(await anext(items), Started)
    task = asyncio.create_task(world.ask(call(**BY_ROUTE)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    world.registry.yank("one", one, "it leaks")
    await world.settled()
    with pytest.raises(VersionYanked):
        await world.ask(call(**BY_ROUTE))
    with pytest.raises(InvalidInput):
        await world.ask(call(max_new=-1, **BY_ROUTE))  # refused before it was known where it goes
    requests, errors, _ = counted(world)["default", "1", one.digest]
    assert (requests, errors) == (3, 1)


def test_no_more_series_are_named_than_can_be_watched() -> None:
    traffic = Traffic(named=3)
    for number in range(100):
        with traffic.watching((f"route {number}", "1", "base")):
            pass
    named, others = traffic.by_label.named, traffic.by_label.others
    assert (len(named), sum(r.count for r in named.values()) + others.count) == (3, 100)
    with traffic.watching(None):
        pass
    assert sum(r.count for r in named.values()) + others.count == 100


def test_a_selection_is_known_by_its_digests_and_weights() -> None:
    a, b = Resolved("x", "sha256:a", 1.0), Resolved("y", "sha256:b", 0.5)
    assert (selection_digest([]), selection_digest([a])) == ("base", "sha256:a")
    mixed = selection_digest([a, b])
    assert is_digest(mixed)
    assert mixed == selection_digest([b, Resolved("other name", "sha256:a", 1.0)])
    assert len({mixed, selection_digest([b]), selection_digest([a, Resolved("y", "sha256:b", 0.25)])}) == 3
