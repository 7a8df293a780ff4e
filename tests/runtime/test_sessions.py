"""Sessions: a conversation keeps its adapters, wherever names and routes point meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from compute_worker.runtime.api import Resolved, RouteTarget, Weighted
from compute_worker.runtime.rights import Permission, Rights, acting
from compute_worker.runtime.sessions import Served, Sessions
from lorry.errors import AdapterNotFound, QuotaExceeded, VersionNotFound
from lorry.format.reference import parse_reference
from tests.support.toy_world import Reply, World, call, eventually, running


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield await world.listening()


async def turn(world: World, session: str = "s", **fields: object) -> Reply:
    return await world.ask(call("hi", **{"selection": None, "session": session, **fields}))


def digests(reply: Reply) -> list[str]:
    return [adapter.digest for adapter in reply.started.adapters]


async def test_a_session_keeps_its_adapters_when_its_route_moves(world: World) -> None:
    one = world.registry.add("one")
    world.registry.add("two")
    await world.switch("news", (Weighted("one", 0.5),), None)
    first = await turn(world, route="news")
    assert (first.started.new_session, first.started.route_revision) == (True, 1)
    await world.switch("news", (Weighted("two"),), None)
    for route in ("", "news"):
        later = await turn(world, route=route)
        assert later.tokens == world.expected(call("hi"), (one, 0.5))
        assert (later.started.new_session, later.started.route, later.started.route_revision) == (False, "news", 1)


async def test_a_session_keeps_what_an_alias_meant(world: World) -> None:
    old, new = world.registry.add("one"), world.registry.add("one", rank=4)
    world.registry.point("one", "prod", old)
    asked = {"selection": (Weighted("one:prod"),)}
    assert digests(await turn(world, **asked)) == [old.digest]
    world.registry.point("one", "prod", new)
    await world.settled()
    assert digests(await turn(world, **asked)) == [old.digest]
    assert digests(await turn(world, "another", **asked)) == [new.digest]


async def test_a_session_that_is_asked_to_follows(world: World) -> None:
    one, two = world.registry.add("one"), world.registry.add("two")
    await world.switch("default", (Weighted("one"),), None)
    assert digests(await turn(world)) == [one.digest]
    await world.switch("default", (Weighted("two"),), None)
    followed = await turn(world, follow=True)
    assert (digests(followed), followed.started.new_session) == ([two.digest], True)
    assert not (await turn(world, follow=True)).started.new_session
    await world.switch("default", (), None)
    assert digests(await turn(world)) == [two.digest]


async def test_a_session_goes_on_with_what_it_is_given_anew(world: World) -> None:
    one = world.registry.add("one")
    assert digests(await turn(world)) == []
    assert digests(await turn(world, selection=(Weighted("one"),))) == [one.digest]
    assert digests(await turn(world)) == [one.digest]
    assert digests(await turn(world, selection=())) == []
    assert digests(await turn(world)) == []


async def test_a_session_keeps_its_branch_when_shares_change(world: World) -> None:
    await world.runtime.switch("default", (RouteTarget((), name="a"), RouteTarget((), name="b")), None)
    first = {n: (await turn(world, f"s{n}")).started.branch for n in range(20)}
    assert set(first.values()) == {"a", "b"}
    await world.runtime.switch("default", (RouteTarget((), 1e-6, "a"), RouteTarget((), 1e6, "b")), None)
    assert {n: (await turn(world, f"s{n}")).started.branch for n in range(20)} == first


async def test_a_requests_scale_is_not_the_sessions(world: World) -> None:
    one = world.registry.add("one")
    await turn(world, selection=(Weighted("one", 0.5),), scale=3.0)
    assert (await turn(world)).started.adapters == (Resolved("one", one.digest, 0.5),)


async def test_a_session_is_its_callers_alone(world: World) -> None:
    one = world.registry.add("one")
    with acting(Rights({"*": Permission.READ}, "alice")):
        await turn(world, selection=(Weighted("one"),))
    with acting(Rights({"*": Permission.READ}, "bob")):
        other = await turn(world)
    assert (digests(other), other.started.new_session) == ([], True)
    with acting(Rights({"*": Permission.READ}, "alice")):
        assert digests(await turn(world)) == [one.digest]


async def test_what_was_evicted_comes_back_as_it_was(world: World) -> None:
    one = world.registry.add("one")
    await turn(world, selection=(Weighted("one"),))
    await world.runtime.unload("one")
    world.registry.add("one", rank=4)
    await world.settled()
    assert (await turn(world)).tokens == world.expected(call("hi"), (one, 1.0))


async def test_what_is_kept_is_used_in_the_eyes_of_the_registry(world: World) -> None:
    one = world.registry.add("one")
    await turn(world, selection=(Weighted("one"),))
    await world.runtime.unload("one")
    world.runtime._held._heartbeat.now()
    await eventually(lambda: world.registry.leases["toy"] == [f"default/one@{one.digest}"])


async def test_a_yanked_version_runs_on_and_a_deleted_one_is_refused(world: World) -> None:
    one, new = world.registry.add("one"), world.registry.add("one", rank=4)
    await turn(world, selection=(Weighted("one@1"),))
    world.registry.yank("one", one, "it leaks")
    await world.settled()
    assert digests(await turn(world)) == [one.digest]
    world.registry.delete("one", one)
    await world.settled()
    with pytest.raises(VersionNotFound, match="was deleted"):
        await turn(world)
    assert digests(await turn(world, selection=(Weighted("one"),))) == [new.digest]


async def test_a_request_that_fails_begins_no_session(world: World) -> None:
    with pytest.raises(AdapterNotFound):
        await turn(world, selection=(Weighted("one"),))
    one = world.registry.add("one")
    begun = await turn(world, selection=(Weighted("one"),))
    assert (digests(begun), begun.started.new_session) == ([one.digest], True)


async def test_first_turns_at_the_same_time_are_one_session(world: World) -> None:
    one, two = world.registry.add("one"), world.registry.add("one", rank=4)
    world.registry.point("one", "prod", one)
    gate = world.registry.hold(one)
    asked = {"selection": (Weighted("one:prod"),)}
    early = asyncio.create_task(turn(world, **asked))
    await eventually(lambda: world.registry.fetched[world.registry.weights(one).digest] == 1)
    world.registry.point("one", "prod", two)
    await eventually(lambda: world.runtime._held.resolver._names.get(parse_reference("one:prod")).digest == two.digest)
    assert digests(await turn(world, **asked)) == [two.digest]
    gate.set()
    # It had begun with the other version; its session had not.
    assert digests(await early) == [two.digest]


class TestBounds:
    SERVED = Served("default", ())

    def test_an_unused_session_ends_and_a_used_one_lives_on(self) -> None:
        now = 0.0
        sessions = Sessions(10, 60.0, lambda: now)
        for name in ("used", "unused"):
            sessions.keep("me", name, self.SERVED)
        now = 59.0
        sessions.keep("me", "used", self.SERVED)
        now = 61.0
        assert [sessions.get("me", name) for name in ("used", "unused")] == [self.SERVED, None]

    def test_a_caller_has_so_many_and_takes_nobody_elses_place(self) -> None:
        now = 0.0
        sessions = Sessions(2, 60.0, lambda: now)
        for name in ("a", "b", "a"):
            sessions.keep("me", name, self.SERVED)
        with pytest.raises(QuotaExceeded, match="2 sessions, which is as many"):
            sessions.keep("me", "c", self.SERVED)
        sessions.keep("you", "c", self.SERVED)
        now = 60.0
        sessions.keep("me", "c", self.SERVED)
        assert [sessions.get("me", name) for name in ("a", "c")] == [None, self.SERVED]

    def test_nothing_is_left_of_callers_who_are_gone(self) -> None:
        now = 0.0
        sessions = Sessions(2, 60.0, lambda: now)
        for number in range(100):
            sessions.keep(str(number), "a", self.SERVED)
        now = 60.0
        assert sessions.used() == []
        assert not sessions._callers
