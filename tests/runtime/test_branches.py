"""Routes of several branches: who is served by which, and that nobody moves who need not."""

import asyncio
import random
from collections import Counter

import pytest

from compute_worker.runtime.api import Branch, RouteTarget, Tier, Weighted
from compute_worker.runtime.branches import side
from lorry.errors import InvalidSelection, RequestTooLarge
from tests.support.toy_world import World, call, eventually

BY_ROUTE = {"selection": None}
USERS = [f"user {number}" for number in range(10_000)]


def sides(shares: dict[str, float], route: str = "news") -> dict[str, str]:
    """By user, the branch that serves it."""
    branches = [Branch(name, share, ()) for name, share in shares.items()]
    return {user: branches[side(route, branches, user)].name for user in USERS}


def moves(before: dict[str, str], after: dict[str, str]) -> set[tuple[str, str]]:
    return {(before[user], after[user]) for user in USERS if before[user] != after[user]}


@pytest.mark.parametrize("shares", [{"a": 1, "b": 1}, {"a": 90, "b": 9, "c": 1}, {"a": 0.001, "b": 0.003}])
def test_every_branch_gets_its_share_of_the_users(shares: dict[str, float]) -> None:
    got = Counter(sides(shares).values())
    for name, share in shares.items():
        expected = share / sum(shares.values())
        # Four standard deviations; the hash is the same in every run.
        assert abs(got[name] / len(USERS) - expected) < 4 * (expected * (1 - expected) / len(USERS)) ** 0.5


def test_where_a_share_grows_users_come_to_it_and_nobody_else_moves() -> None:
    before = sides({"a": 5, "b": 4, "c": 1})
    assert moves(before, sides({"a": 5, "b": 4, "c": 3})) == {("a", "c"), ("b", "c")}
    assert moves(before, sides({"a": 50, "b": 40, "c": 10})) == set()


def test_where_a_branch_goes_only_its_own_users_move() -> None:
    assert moves(sides({"a": 1, "b": 1, "c": 1}), sides({"c": 1, "a": 1})) == {("b", "a"), ("b", "c")}


def test_routes_are_split_independently_of_each_other() -> None:
    one, other = sides({"a": 1, "b": 1}), sides({"a": 1, "b": 1}, "sports")
    both = Counter((one[user], other[user]) for user in USERS)
    assert all(abs(count / len(USERS) - 0.25) < 0.02 for count in both.values())


async def test_a_user_stays_on_one_branch_whatever_that_serves(world: World) -> None:
    one, two = world.registry.add("one"), world.registry.add("two")
    await world.runtime.switch("news", (RouteTarget((Weighted("one"),), name="a"), RouteTarget((), 2.0, "b")), None)

    async def branches() -> dict[str, str]:
        replies = await asyncio.gather(
            *(world.ask(call("hi", route="news", affinity=user, **BY_ROUTE)) for user in USERS[:24])
        )
        for reply in replies:
            expected = [] if reply.started.branch == "b" else [(served, 1.0)]
            assert reply.tokens == world.expected(call("hi"), *expected)
        return {user: reply.started.branch for user, reply in zip(USERS, replies, strict=False)}

    served = one
    before = await branches()
    assert Counter(before.values())["a"] in range(3, 14)
    served = two
    await world.runtime.switch("news", (RouteTarget((), 2.0, "b"), RouteTarget((Weighted("two"),), name="a")), None)
    assert await branches() == before


async def test_without_a_key_the_seed_decides_and_repeats_the_choice(world: World) -> None:
    await world.runtime.switch("news", (RouteTarget(()), RouteTarget(())), None)
    request = call(max_new=1, route="news", **BY_ROUTE)
    replies = [await world.ask(request) for _ in range(30)]
    assert {reply.started.branch for reply in replies} == {"1", "2"}
    for reply in replies:
        again = await world.ask(call(max_new=1, route="news", seed=reply.started.seed, **BY_ROUTE))
        assert again.started.branch == reply.started.branch


async def test_all_branches_are_resident_before_the_route_points_to_them(world: World) -> None:
    one, two, dora = (world.registry.add(name, dora=name == "dora") for name in ("one", "two", "dora"))
    selections = [(Weighted("one"), Weighted("two", 0.5)), (Weighted("two", -2.0),), (Weighted("dora"),), ()]
    state = await world.runtime.switch("news", tuple(RouteTarget(selection) for selection in selections), None)
    assert [branch.name for branch in state.branches] == ["1", "2", "3", "4"]
    assert [a.digest for a in state.adapters] == [one.digest, two.digest, two.digest, dora.digest]
    assert set(world.tiers().values()) == {Tier.POOL}
    assert len(world.engine.installs) == 3
    world.runtime.delete_route("news")
    assert (await world.runtime.unload("two"))[1]


async def test_what_is_wrong_with_one_branch_is_wrong_with_the_route(world: World) -> None:
    for name, rank in {"one": 9, "two": 8, "dora": 2}.items():
        world.registry.add(name, rank=rank, dora=name == "dora")
    for selection, error in {
        (Weighted("dora", 0.5),): InvalidSelection,
        (Weighted("dora"), Weighted("two")): InvalidSelection,
        (Weighted("one"),): RequestTooLarge,
    }.items():
        with pytest.raises(error):
            await world.runtime.switch("news", (RouteTarget((Weighted("two"),)), RouteTarget(selection)), None)
    assert [state.name for state in world.runtime.routes()] == ["default"]


async def test_a_branch_follows_its_name_and_the_others_stay(world: World) -> None:
    await world.listening()
    one, two = world.registry.add("one"), world.registry.add("two")
    targets = (RouteTarget((Weighted("one", 0.5),)), RouteTarget((Weighted("one@1"), Weighted("two"))))
    await world.runtime.switch("news", targets, None)
    new = world.registry.add("one", rank=4)
    await eventually(lambda: world.runtime.route("news").revision == 2)
    digests = [[a.digest for a in branch.adapters] for branch in world.runtime.route("news").branches]
    assert digests == [[new.digest], [one.digest, two.digest]]


async def test_a_requests_scale_is_on_top_of_a_routes_weights(world: World) -> None:
    one, two = world.registry.add("one"), world.registry.add("two")
    await world.switch("news", (Weighted("one", 0.5), Weighted("two")), None)
    request = call("hello", route="news", scale=-2.0, **BY_ROUTE)
    reply = await world.ask(request)
    assert [a.weight for a in reply.started.adapters] == [-1.0, -2.0]
    assert reply.tokens == world.expected(request, (one, -1.0), (two, -2.0))
    request = call("hello", "one", scale=3.0)
    assert (await world.ask(request)).tokens == world.expected(request, (one, 3.0))


async def test_a_switch_under_load_drops_nobody_and_each_gets_one_branch_whole(world: World) -> None:
    versions = [world.registry.add(f"v{n}", rank=2) for n in range(4)]
    by_digest = {version.digest: version for version in versions}
    draw, done, answered = random.Random(7), asyncio.Event(), 0  # noqa: S311 - a repeatable mix

    def targets() -> tuple[RouteTarget, ...]:
        first, second = draw.sample(range(4), 2)
        pair = (Weighted(f"v{first}", 0.5), Weighted(f"v{second}"))
        return (
            RouteTarget((Weighted(f"v{first}"),), draw.random() + 0.1),
            RouteTarget(pair, 1.0),
            RouteTarget((), 0.5),
        )

    async def client(user: str) -> None:
        nonlocal answered
        while not done.is_set():
            request = call("hi", route="default", affinity=user, **BY_ROUTE)
            reply = await world.ask(request)
            served = [(by_digest[a.digest], a.weight) for a in reply.started.adapters]
            assert reply.tokens == world.expected(request, *served)
            states = {state.revision: state for state in world.runtime.route_history("default")}
            branch = {branch.name: branch for branch in states[reply.started.route_revision].branches}
            assert reply.started.adapters == branch[reply.started.branch].adapters
            answered += 1

    await world.runtime.switch("default", targets(), None)
    clients = [asyncio.create_task(client(f"user {n}")) for n in range(12)]
    for _ in range(40):
        await world.runtime.switch("default", targets(), None)
        seen = answered
        await eventually(lambda: answered > seen)  # noqa: B023 - it is waited for at once
    done.set()
    await asyncio.gather(*clients)
    assert answered >= 40
