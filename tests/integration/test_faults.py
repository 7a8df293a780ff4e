"""A network that misbehaves between worker and registry: what is served is right, or a typed error in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from compute_worker.app import engine_settings, worker
from compute_worker.contract import Engine
from compute_worker.engine.build import build_engine
from compute_worker.wording import Tokenizer
from lorry import LorryError, RegistryClient, WorkerClient, retry
from lorry.errors import DeadlineExceeded, RegistryUnavailable
from tests.support.pair import Answer, agrees, answer
from tests.support.peft_adapters import QUIET
from tests.support.proxy import Fault, Kind, Plan, Proxy, Way, always, first, tcp_proxy
from tests.support.registry import DEADLINE, running_registry
from tests.support.worker import MODEL_NAME, tiny_adapter, tiny_base, tiny_llama, worker_settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), QUIET]

RANK = 64
# Bytes of a connection: before the answer to Resolve, within it, ...
RESOLVING = [40, 900]
# ... and at the beginning, in the midst and near the end of 98 KB of weights.
PULLING = [6_000, 50_000, 95_000]
# Beyond the deadline: for a machine that has other things to do.
SLACK = 10.0


@dataclass(frozen=True)
class Depot:
    """A sound registry that holds `wide`, an engine, and the right answer."""

    address: str
    engine: Engine
    tokenizer: Tokenizer
    model: Path
    right: Answer

    @asynccontextmanager
    async def through(self, plan: Plan, cache: Path) -> AsyncIterator[tuple[WorkerClient, Proxy]]:
        """A worker of its own, its cache empty, that reaches the registry through a faulty network."""
        async with tcp_proxy(self.address, plan) as proxy:
            settings = worker_settings(cache, self.model, proxy.address)
            async with worker(settings, self.engine, self.tokenizer) as target, WorkerClient(target) as client:
                yield client, proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def depot(tmp_path_factory: pytest.TempPathFactory, model: Path) -> AsyncIterator[Depot]:
    folder = tmp_path_factory.mktemp("depot")
    adapter = tiny_adapter(folder / "wide", seed=3, rank=RANK, scale=0.1)
    async with running_registry(folder / "registry") as address, RegistryClient(address) as registry:
        await registry.register_base_model(MODEL_NAME, tiny_base())
        await registry.push(adapter, "wide")
        settings = worker_settings(folder / "worker", model, address)
        engine, tokenizer = build_engine(engine_settings(settings))
        async with worker(settings, engine, tokenizer) as target, WorkerClient(target) as client:
            right = await answer(client, adapters="wide")
        assert agrees(right, tiny_llama(), [adapter], tokenizer.encode("the quick brown fox"))
        yield Depot(address, engine, tokenizer, model, right)


async def outcome(client: WorkerClient, seconds: float = DEADLINE) -> Answer | LorryError:
    """What a caller with this deadline gets. Anything but an answer or a LorryError fails the test."""
    async with asyncio.timeout(seconds + SLACK):
        try:
            await client.within(seconds).load("wide")
            return await answer(client, adapters="wide")
        except LorryError as error:
            return error


@pytest.mark.parametrize("at", PULLING)
@pytest.mark.parametrize("kind", [Kind.CUT, Kind.RESET])
async def test_a_pull_that_is_cut_goes_on(depot: Depot, tmp_path: Path, kind: Kind, at: int) -> None:
    async with depot.through(first(2, Fault(kind, Way.DOWN, at)), tmp_path) as (client, proxy):
        assert (await _answered(client)).same_as(depot.right)
        assert proxy.connections == 3


async def _answered(client: WorkerClient) -> Answer:
    given = await outcome(client)
    assert isinstance(given, Answer), given
    return given


# A byte too few or too many puts the frames out of step: gRPC notices after some seconds.
SLOW = [(Kind.DROP, 50_000), (Kind.REPEAT, 6_000)]
DAMAGES = [*((Kind.FLIP, at) for at in (*RESOLVING, *PULLING, 20_000, 70_000)), *SLOW]


@pytest.mark.parametrize(("kind", "at"), [*DAMAGES, *((Kind.CUT, at) for at in RESOLVING)])
async def test_damage_is_noticed_and_never_served(depot: Depot, tmp_path: Path, kind: Kind, at: int) -> None:
    async with depot.through(first(1, Fault(kind, Way.DOWN, at)), tmp_path) as (client, _):
        given = await outcome(client)
        assert isinstance(given, LorryError) or given.same_as(depot.right)
        assert (await _answered(client)).same_as(depot.right)


async def test_a_registry_that_is_always_cut_off_is_told_by_its_name(
    depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_FAILURES", 2)
    async with depot.through(always(Fault(Kind.RESET, Way.DOWN, 5_000)), tmp_path) as (client, proxy):
        given = await outcome(client)
        assert type(given) is RegistryUnavailable
        assert proxy.address in given.message


@pytest.mark.parametrize("at", [*RESOLVING, *PULLING])
async def test_a_stall_ends_at_the_callers_deadline_and_does_no_harm(depot: Depot, tmp_path: Path, at: int) -> None:
    async with depot.through(first(1, Fault(Kind.STALL, Way.DOWN, at)), tmp_path) as (client, proxy):
        given = await outcome(client, seconds=0.5)
        assert isinstance(given, DeadlineExceeded), given
        base = await answer(client, adapters=[])
        assert len(base.tokens) == 6
        await asyncio.wait_for(proxy.stalled.wait(), DEADLINE)
        proxy.released.set()
        assert (await _answered(client)).same_as(depot.right)
