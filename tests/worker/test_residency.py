from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import grpc.aio
import pytest

from compute_worker.runtime import residency
from lorry.errors import AdapterInUse, AdapterPinned, CacheBusy, InvalidInput, Lagging, QueueFull
from lorry.v1.residency_pb2 import (
    TIER_DISK,
    TIER_HOST,
    TIER_POOL,
    TIER_UNSPECIFIED,
    Resident,
    WatchResidencyRequest,
)
from lorry.v1.residency_pb2_grpc import ResidencyServiceStub
from lorry.v1.types_pb2 import VARIANT_DORA, VARIANT_LORA, VARIANT_RSLORA
from tests.support.pair import Pair, running_pair
from tests.support.registry import DEADLINE, until
from tests.support.worker import HOST_BYTES, KV_BYTES, tiny_llama

ROW_BYTES = 4364
ENDLESS = {"max_new_tokens": 2000, "ignore_eos": True}


async def residents(pair: Pair) -> dict[str, Resident]:
    return {resident.names[0]: resident async for resident in pair.worker.residents()}


async def test_load_brings_an_adapter_into_the_pool_once(pair: Pair) -> None:
    version = await pair.publish("wide", rank=7)
    for _ in range(2):
        resident = await pair.worker.load("wide")
        assert (resident.digest, resident.tier, resident.rank) == (version.digest, TIER_POOL, 7)
        assert (resident.size_bytes, resident.loads, resident.leases) == (7 * ROW_BYTES, 1, 0)
    assert await pair.used("pool_rows") == 7
    assert await pair.used("pool_bytes") == 7 * ROW_BYTES
    assert 0 < await pair.used("host_bytes") < await pair.used("disk_bytes")


async def test_an_adapter_is_brought_as_near_as_is_asked_for(pair: Pair) -> None:
    version = await pair.publish("ahead", rank=3)
    size = sum(file.size_bytes for file in version.manifest.files)
    for tier, number in (("disk", TIER_DISK), ("host", TIER_HOST), ("pool", TIER_POOL)):
        resident = await pair.worker.load("ahead", tier=tier)
        assert (resident.digest, resident.tier, resident.rank, resident.hits) == (version.digest, number, 3, 0)
        if tier == "disk":
            assert resident.size_bytes == size
    for tier in ("disk", "host"):
        assert (await pair.worker.load("ahead", tier=tier)).tier == TIER_POOL
    assert await pair.used("pool_rows") == 3


async def test_a_tier_that_is_none_is_refused(pair: Pair) -> None:
    with pytest.raises(InvalidInput, match="expected one of pool, host, disk, got 'cloud'"):
        await pair.worker.load("any", tier="cloud")
    with pytest.raises(InvalidInput, match="TIER_POOL, TIER_HOST, TIER_DISK or none, got 9"):
        await pair.stubs.call("Load", adapter="any", tier=9)


async def test_callers_who_ask_at_once_share_one_load(pair: Pair) -> None:
    await pair.publish("hot")
    await asyncio.gather(*(pair.answer("hot") for _ in range(8)))
    assert (await residents(pair))["hot"].loads == 1


async def test_unload_drops_pool_and_host_memory_and_is_idempotent(pair: Pair) -> None:
    version = await pair.publish("plain")
    await pair.worker.load("plain")
    gone = await pair.worker.unload("plain")
    assert (gone.digest, gone.was_resident) == (version.digest, True)
    assert not (await pair.worker.unload("plain")).was_resident
    assert (await pair.used("pool_rows"), await pair.used("host_bytes")) == (0, 0)
    assert await pair.used("disk_bytes") > 0


async def test_an_answer_after_a_reload_is_the_same(pair: Pair) -> None:
    await pair.publish("plain")
    before = await pair.answer("plain")
    await pair.worker.unload("plain")
    assert (await pair.answer("plain")).same_as(before)


async def test_unload_waits_for_the_requests_that_run(pair: Pair) -> None:
    await pair.publish("plain")
    alone = await pair.answer("plain", length=100)
    running = asyncio.create_task(pair.answer("plain", length=100))
    await until(lambda: _runs(pair))
    assert (await pair.worker.unload("plain")).was_resident
    assert await pair.idle()
    assert (await running).same_as(alone)


async def _runs(pair: Pair) -> bool:
    return await pair.used("kv_tokens") > 0


async def test_a_pinned_adapter_is_neither_unloaded_nor_evicted(tmp_path: Path, model: Path) -> None:
    async with running_pair(tmp_path, model, pool_bytes=4 * ROW_BYTES) as pair:
        for name in ("kept", "one", "two"):
            await pair.publish(name)
        assert (await pair.worker.pin("kept")).pinned
        with pytest.raises(AdapterPinned):
            await pair.worker.unload("kept")
        for name in ("one", "two", "one"):
            await pair.worker.load(name)
        held = await residents(pair)
        assert {name: held[name].tier for name in held} == {"kept": TIER_POOL, "one": TIER_POOL, "two": TIER_HOST}
        assert not (await pair.worker.unpin("kept")).pinned
        await pair.worker.load("two")
        assert (await residents(pair))["kept"].tier == TIER_HOST


async def test_a_pin_ends_with_its_time(pair: Pair) -> None:
    await pair.publish("plain")
    assert (await pair.worker.pin("plain", ttl=timedelta(seconds=0.05))).pinned

    async def let_go() -> bool:
        return not (await residents(pair))["plain"].pinned

    await until(let_go)
    assert (await pair.worker.unload("plain")).was_resident


async def test_a_later_pin_takes_the_place_of_an_earlier_one(pair: Pair) -> None:
    await pair.publish("plain")
    await pair.worker.pin("plain", ttl=timedelta(seconds=0.05))
    await pair.worker.pin("plain")
    await asyncio.sleep(0.1)
    assert (await residents(pair))["plain"].pinned


async def test_what_a_route_uses_cannot_be_unloaded(pair: Pair) -> None:
    await pair.publish("plain")
    await pair.worker.switch("plain")
    with pytest.raises(AdapterInUse):
        await pair.worker.unload("plain")
    await pair.worker.switch([])
    assert (await pair.worker.unload("plain")).was_resident


async def test_residents_are_listed_most_recently_used_first_in_pages(pair: Pair) -> None:
    await pair.publish("plain")
    await pair.publish("scaled", rslora=True)
    await pair.publish("directed", dora=True)
    await pair.registry.set_alias("plain", "prod")
    for reference in ("plain", "scaled", "directed", "plain:prod"):
        await pair.worker.load(reference)
    held = [resident async for resident in pair.worker.residents()]
    assert [list(each.names) for each in held] == [["plain:prod", "plain"], ["directed"], ["scaled"]]
    assert [each.variant for each in held] == [VARIANT_LORA, VARIANT_DORA, VARIANT_RSLORA]
    assert (held[0].hits, held[0].loads) == (1, 1)
    first = await pair.stubs.call("ListResident", page_size=2)
    rest = await pair.stubs.call("ListResident", page_token=first.next_page_token)
    assert [*first.residents, *rest.residents] == held
    assert not rest.next_page_token


async def test_a_watch_tells_what_is_there_and_then_each_change(pair: Pair) -> None:
    version = await pair.publish("plain")
    later = await pair.publish("later")
    await pair.worker.load("plain")
    async with aclosing(pair.worker.watch()) as changes:
        first = await anext(changes)
        assert (first.initial, first.resident.digest, first.resident.tier) == (True, version.digest, TIER_POOL)
        await pair.worker.load("later")
        told = [await anext(changes) for _ in range(2)]
        assert {each.resident.digest for each in told} == {later.digest}
        assert [(each.initial, each.resident.tier) for each in told] == [(False, TIER_HOST), (False, TIER_POOL)]
        await pair.worker.pin("later")
        assert (await anext(changes)).resident.pinned


async def test_a_watch_tells_that_an_adapter_is_gone(tmp_path: Path, model: Path) -> None:
    async with running_pair(tmp_path, model) as pair:
        probe = await pair.publish("probe")
        room = probe.size_bytes + 64
    async with running_pair(tmp_path / "small", model, disk_bytes=room) as pair:
        first, _ = await pair.publish("probe"), await pair.publish("other")
        await pair.worker.load("probe")
        async with aclosing(pair.worker.watch()) as changes:
            await anext(changes)
            await pair.worker.unload("probe")
            await pair.worker.load("other")
            async with asyncio.timeout(DEADLINE):
                gone = await anext(each.resident async for each in changes if each.resident.tier == TIER_UNSPECIFIED)
        assert gone.digest == first.digest


async def test_a_watcher_who_does_not_keep_up_is_told_to_start_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "_MAX_LAG", 16)
    await pair.publish("plain")
    await pair.worker.load("plain")
    # So that gRPC takes as little as it can ahead of a reader who does not read.
    eager = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(pair.serving.target, options=eager) as channel:
        call = ResidencyServiceStub(channel).WatchResidency(WatchResidencyRequest(), timeout=DEADLINE)
        await call.initial_metadata()
        for _ in range(150):
            await pair.worker.pin("plain")
            await pair.worker.unpin("plain")
        with pytest.raises(Lagging):
            await pair.stubs.read_all(call)


async def test_rows_that_stay_in_use_are_waited_for_and_then_refused(tmp_path: Path, model: Path) -> None:
    async with running_pair(tmp_path, model, pool_bytes=3 * ROW_BYTES, wait_seconds=0.2) as pair:
        for name in ("busy", "other"):
            await pair.publish(name)
        async with pair.worker.generate("x", adapters="busy", **ENDLESS) as answer, aclosing(aiter(answer)) as messages:
            await anext(messages)
            with pytest.raises(CacheBusy) as caught:
                await pair.worker.load("other")
            assert caught.value.retryable
            assert await pair.used("pool_rows") == 2
        await pair.worker.load("other")
        assert (await residents(pair))["other"].tier == TIER_POOL


async def test_who_waits_for_rows_gets_them_when_they_are_free(tmp_path: Path, model: Path) -> None:
    async with running_pair(tmp_path, model, pool_bytes=3 * ROW_BYTES) as pair:
        for name in ("busy", "other"):
            await pair.publish(name)
        async with pair.worker.generate("x", adapters="busy", **ENDLESS) as answer, aclosing(aiter(answer)) as messages:
            await anext(messages)
            waiting = asyncio.create_task(pair.answer("other"))
            await until(lambda: _waits(pair))
        assert len((await waiting).tokens) == 6


async def _waits(pair: Pair) -> bool:
    return await pair.used("queue") == 1


async def test_more_requests_than_may_wait_are_refused(tmp_path: Path, model: Path) -> None:
    async with running_pair(tmp_path, model, queue=1, max_batch=1) as pair:
        running = pair.worker.generate("x", adapters=[], **ENDLESS)
        async with running, aclosing(aiter(running)) as messages:
            await anext(messages)
            waiting = asyncio.create_task(pair.answer())
            await until(lambda: _waits(pair))
            with pytest.raises(QueueFull) as caught:
                await pair.answer()
            assert caught.value.retryable
            assert caught.value.retry_after == QueueFull.retry_after
        assert len((await waiting).tokens) == 6


async def test_capabilities_tell_what_it_was_built_with(pair: Pair) -> None:
    known = await pair.worker.capabilities()
    limits = pair.serving.engine.limits
    assert (known.base_model, known.device, known.dtype) == ("tiny", "cpu", "float32")
    assert (known.max_rank, known.max_context_tokens) == (limits.pool_rows, limits.max_context)
    base = tiny_llama()
    whole = sum(tensor.nbytes for tensor in (*base.parameters(), *base.buffers()))
    assert whole / 2 <= limits.base_bytes <= whole  # what bfloat16 holds exactly takes two bytes a number
    assert limits.block_bytes == KV_BYTES // limits.kv_blocks
    assert list(known.variants) == [VARIANT_LORA, VARIANT_RSLORA, VARIANT_DORA]
    budgets = {budget.name: (budget.limit, budget.used) for budget in known.budgets}
    assert budgets.pop("prefix_tokens")[0] == limits.kv_blocks * limits.block_tokens
    assert budgets == {
        "base_bytes": (limits.base_bytes, limits.base_bytes),
        "pool_rows": (limits.pool_rows, 0),
        "pool_bytes": (limits.pool_rows * limits.row_bytes, 0),
        "host_bytes": (HOST_BYTES, 0),
        "disk_bytes": (4 << 30, 0),
        "kv_tokens": (limits.kv_blocks * limits.block_tokens, 0),
        "kv_bytes": (limits.kv_blocks * limits.block_bytes, 0),
        "queue": (512, 0),
    }


async def test_a_pool_that_is_too_small_for_all_serves_them_in_turn(tmp_path: Path, model: Path) -> None:
    names = [f"a{rank}" for rank in range(1, 5)]
    async with running_pair(tmp_path / "roomy", model) as pair:
        for rank, name in enumerate(names, 1):
            await pair.publish(name, rank=rank)
        alone = {name: await pair.answer(name) for name in names}
    async with running_pair(tmp_path / "small", model, pool_bytes=5 * ROW_BYTES) as pair:
        for rank, name in enumerate(names, 1):
            await pair.publish(name, rank=rank)
        asked = list(itertools.chain.from_iterable(itertools.permutations(names, 2)))
        answers = await asyncio.gather(*(pair.answer(name) for name in asked))
        assert all(given.same_as(alone[name]) for name, given in zip(asked, answers, strict=True))
        assert await pair.used("pool_rows") <= 5
