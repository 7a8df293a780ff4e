"""A worker that hears its registry: names from memory, moved once what they mean is loaded; nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from compute_worker.runtime.api import Tier, Weighted
from lorry.errors import AliasNotFound, IncompatibleAdapter, VersionNotFound, VersionYanked
from lorry.format.digest import digest_of
from tests.support.toy_world import World, call, eventually, running

BY_ROUTE = {"selection": None}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield await world.listening()


async def test_a_name_is_asked_for_once_and_then_answered_from_memory(world: World) -> None:
    one = world.registry.add("one")
    world.registry.point("one", "prod", one)
    for reference in ("one", "one:prod", "one@1") * 3:
        assert (await world.ask(call("hello", reference))).started.adapters[0].digest == one.digest
    assert set(world.registry.resolved.values()) == {1}


@pytest.mark.parametrize("reference", ["one", "one:prod"])
async def test_what_a_name_means_next_is_loaded_before_it_is_answered(world: World, reference: str) -> None:
    old = world.registry.add("one")
    world.registry.point("one", "prod", old)
    await world.ask(call("hello", reference))
    world.engine.installing.clear()
    new = world.registry.add("one", rank=4)
    world.registry.point("one", "prod", new)
    await eventually(lambda: new.digest in world.runtime._held.ledger.entries)
    assert (await world.ask(call("hello", reference))).started.adapters[0].digest == old.digest
    world.engine.installing.set()
    await world.settled()
    installs = len(world.engine.installs)
    request = call("hello", reference)
    reply = await world.ask(request)
    assert reply.started.adapters[0].digest == new.digest
    assert reply.tokens == world.expected(request, (new, 1.0))
    assert len(world.engine.installs) == installs


async def test_a_name_that_is_deleted_while_its_next_meaning_is_loaded_is_gone(world: World) -> None:
    old = world.registry.add("one")
    world.registry.point("one", "prod", old)
    await world.ask(call("hello", "one:prod"))
    new = world.registry.add("one", rank=4)
    gate = world.registry.hold(new)
    world.registry.point("one", "prod", new)
    await eventually(lambda: world.registry.fetched[world.registry.weights(new).digest] > 0)
    world.registry.unpoint("one", "prod")
    gate.set()
    await world.settled()

    with pytest.raises(AliasNotFound):
        await world.ask(call("hello", "one:prod"))


async def test_what_cannot_be_loaded_is_answered_all_the_same_and_its_request_is_told_why(world: World) -> None:
    old = world.registry.add("one")
    await world.ask(call("hello", "one"))
    world.registry.add("one", rank=4, base_id=digest_of(b"another base"))
    await world.settled()
    with pytest.raises(IncompatibleAdapter):
        await world.ask(call("hello", "one"))
    await world.ask(call("hello", f"one@{old.digest}"))


async def test_a_name_that_is_not_in_the_pool_moves_without_a_load(world: World) -> None:
    world.registry.add("one")
    await world.ask(call("hello", "one"))
    await world.runtime.unload("one")
    new = world.registry.add("one", rank=4)
    await world.settled()
    assert new.digest not in world.tiers()
    assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == new.digest


async def test_an_answer_that_an_event_overtook_is_asked_for_again(world: World) -> None:
    old = world.registry.add("one")
    world.registry.answering.clear()
    asked = asyncio.create_task(world.ask(call("hello", "one")))
    await eventually(lambda: world.registry.resolved["one"] == 1)
    new = world.registry.add("one", rank=4)
    await world.settled()
    world.registry.answering.set()
    assert (await asked).started.adapters[0].digest == new.digest != old.digest
    assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == new.digest
    assert world.registry.resolved["one"] == 2


async def test_an_answer_from_before_the_registry_was_heard_is_not_remembered(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.add("one")
        world.registry.answering.clear()
        asked = asyncio.create_task(world.ask(call("hello", "one")))
        await eventually(lambda: world.registry.resolved["one"] == 1)
        new = world.registry.add("one", rank=4)
        await world.listening()
        world.registry.answering.set()
        await asked
        assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == new.digest


async def test_while_the_registry_is_not_heard_every_name_is_asked_for(world: World) -> None:
    world.registry.add("one")
    await world.ask(call("hello", "one"))
    world.registry.silent = True
    world.registry.hang_up()
    await eventually(lambda: not world.runtime._held.resolver._names.live)
    for asked in (2, 3):
        await world.ask(call("hello", "one"))
        assert world.registry.resolved["one"] == asked


async def test_what_moved_while_nothing_was_heard_is_loaded_and_adopted_afterwards(world: World) -> None:
    world.registry.add("one")
    await world.ask(call("hello", "one"))
    world.registry.silent = True
    world.registry.hang_up()
    await eventually(lambda: not world.runtime._held.resolver._names.live)
    new = world.registry.add("one", rank=4)
    await world.listening()
    await world.settled()
    asked = world.registry.resolved["one"]
    assert world.tiers()[new.digest] is Tier.POOL
    assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == new.digest
    assert world.registry.resolved["one"] == asked


async def test_events_that_are_gone_begin_the_watch_again_from_now(world: World) -> None:
    world.registry.add("one")
    await world.ask(call("hello", "one"))
    await world.settled()
    world.registry.silent = True
    world.registry.hang_up()
    await eventually(lambda: not world.runtime._held.resolver._names.live)
    new = world.registry.add("one", rank=4)
    world.registry.forgotten = 2
    await world.listening()
    await eventually(lambda: world.tiers().get(new.digest) is Tier.POOL)
    assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == new.digest


async def test_a_yanked_version_is_refused_by_name_with_the_reason_and_runs_by_digest(world: World) -> None:
    one = world.registry.add("one")
    world.registry.point("one", "prod", one)
    world.engine.running.clear()
    begun = asyncio.create_task(world.ask(call("hello", "one:prod")))
    await eventually(lambda: world.budget("kv_tokens") > 0)
    world.registry.yank("one", one, "it leaks")
    await world.settled()
    world.engine.running.set()
    assert (await begun).started.adapters[0].digest == one.digest
    for reference in ("one:prod", "one@1"):
        with pytest.raises(VersionYanked, match="it leaks"):
            await world.ask(call("hello", reference))
    with pytest.raises(VersionNotFound):
        await world.ask(call("hello", "one"))
    await world.ask(call("hello", f"one@{one.digest}"))


async def test_a_yank_gives_a_bare_name_back_to_the_version_before(world: World) -> None:
    old, new = world.registry.add("one"), world.registry.add("one", rank=4)
    assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == new.digest
    world.registry.yank("one", new, "it leaks")
    await world.settled()
    assert (await world.ask(call("hello", "one"))).started.adapters[0].digest == old.digest


async def test_a_deleted_version_leaves_every_tier_once_its_last_request_has_ended(world: World) -> None:
    one = world.registry.add("one")
    world.registry.point("one", "prod", one)
    await world.runtime.pin("one:prod")
    world.engine.running.clear()
    begun = asyncio.create_task(world.ask(call("hello", "one:prod")))
    await eventually(lambda: world.budget("kv_tokens") > 0)
    world.registry.delete("one", one)
    await world.settled()
    assert world.tiers() == {one.digest: Tier.POOL}
    for reference, error in {"one:prod": AliasNotFound, f"one@{one.digest}": VersionNotFound}.items():
        with pytest.raises(error):
            await world.ask(call("hello", reference))
    world.engine.running.set()
    assert (await begun).tokens == world.expected(call("hello"), (one, 1.0))
    await eventually(lambda: world.tiers() == {})
    assert not list((world.cache_dir / "blobs").iterdir())
    assert not list((world.cache_dir / "manifests").iterdir())


async def test_a_deletion_leaves_what_another_adapter_or_a_combination_still_names(world: World) -> None:
    one, twin = world.registry.add("one", seed=1), world.registry.add("twin", seed=1)
    assert one.digest == twin.digest
    for name in ("one", "twin"):
        await world.ask(call("hello", name))
    world.registry.delete("one", one)
    await world.settled()
    assert world.tiers() == {one.digest: Tier.POOL}
    world.registry.down = True
    assert (await world.ask(call("hello", f"twin@{one.digest}"))).started.adapters[0].digest == one.digest


async def test_a_version_that_is_published_again_is_served_again(world: World) -> None:
    one = world.registry.add("one", seed=1)
    await world.ask(call("hello", "one"))
    world.registry.delete("one", one)
    await world.settled()
    again = world.registry.add("one", seed=1)
    await world.settled()
    assert (await world.ask(call("hello", f"one@{again.digest}"))).started.adapters[0].digest == one.digest


async def test_one_name_that_hangs_does_not_hold_up_another(world: World) -> None:
    for name in ("slow", "quick"):
        world.registry.add(name)
        await world.ask(call("hello", name))
    hung = world.registry.add("slow", rank=4)
    gate = world.registry.hold(hung)
    await eventually(lambda: world.registry.fetched[world.registry.weights(hung).digest] == 1)
    new = world.registry.add("quick", rank=4)
    await eventually(lambda: world.tiers().get(new.digest) is Tier.POOL)
    gate.set()
    await world.settled()


async def test_names_of_one_tenant_that_hang_do_not_hold_up_anothers(tmp_path: Path) -> None:
    async with running(tmp_path, default_wait=60) as world:
        await world.listening()
        names = [*(f"a/slow{number}" for number in range(6)), "b/quick"]
        for name in names:
            world.registry.add(name)
            await world.ask(call("hello", name))
        gates = [world.registry.hold(world.registry.add(name, rank=3)) for name in names[:-1]]
        new = world.registry.add("b/quick", rank=3)
        await eventually(lambda: world.tiers().get(new.digest) is Tier.POOL)
        for gate in gates:
            gate.set()
        await world.settled()


async def test_a_request_takes_rows_before_a_name_that_moved(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await world.listening()
        world.registry.add("one", rank=12)
        other = world.registry.add("other", rank=8)
        world.engine.running.clear()
        holding = asyncio.create_task(world.ask(call("hello", "one")))
        await eventually(lambda: world.budget("kv_tokens") > 0)
        new = world.registry.add("one", rank=10)
        await eventually(lambda: len(world.runtime._held.pool._line._waiting) == 1)
        request = asyncio.create_task(world.ask(call("hello", "other")))
        await eventually(lambda: len(world.runtime._held.pool._line._waiting) == 2)
        world.engine.running.set()
        await asyncio.gather(holding, request)
        await world.settled()
        order = [world.registry.content(published) for published in (other, new)]
        assert world.engine.installs[1:] == order
        assert world.tiers()[new.digest] is Tier.POOL


async def test_load_while_an_alias_moves_to_and_fro_fails_no_request_and_mixes_none(world: World) -> None:
    versions = [world.registry.add("one", rank=rank) for rank in (2, 3, 4)]
    world.registry.point("one", "prod", versions[0])
    by_digest = {version.digest: version for version in versions}
    done = False

    async def client(number: int) -> int:
        served = 0
        while not done:
            request = call(f"hello {number}", Weighted("one:prod", 0.5))
            reply = await world.ask(request)
            version = by_digest[reply.started.adapters[0].digest]
            assert reply.tokens == world.expected(request, (version, 0.5))
            served += 1
        return served

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    for turn in range(12):
        moved = versions[turn % 3]
        world.registry.point("one", "prod", moved)
        await world.settled()
        assert (await world.ask(call("hello", "one:prod"))).started.adapters[0].digest == moved.digest
    done = True
    assert all(await asyncio.gather(*clients))
