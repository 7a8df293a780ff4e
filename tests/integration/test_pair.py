"""Both services as processes: many adapters at once, and either of them killed in the midst of its work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from lorry import RegistryClient, WorkerClient
from lorry.errors import RegistryUnavailable, Unavailable
from lorry.format.bundle import WEIGHTS_NAME
from lorry.v1.residency_pb2 import TIER_POOL
from tests.support.pair import PROMPT, Answer, agrees, answer
from tests.support.peft_adapters import QUIET
from tests.support.process import ServerProcess
from tests.support.proxy import Fault, Kind, Proxy, Way, tcp_proxy
from tests.support.registry import DEADLINE, registry_process, until
from tests.support.worker import MODEL_NAME, tiny_adapter, tiny_base, tiny_llama, worker_process

pytestmark = [pytest.mark.asyncio(loop_scope="module"), QUIET]

# Ranks 1 to 7, rsLoRA among them, and a DoRA.
ADAPTERS = {f"a{rank}": {"rank": rank, "rslora": rank % 2 == 0} for rank in range(1, 8)}
ADAPTERS["directed"] = {"rank": 3, "dora": True}
# 786 KB of weights: gRPC does not take as much ahead of a reader who is held up.
BIG, BIG_BYTES = {"rank": 512, "scale": 0.02}, 786_432
POOL_BYTES = 640 * 4364


class Town:
    """A registry, a worker that reaches it through a proxy, and the power to kill either."""

    def __init__(self, folder: Path, model: Path, proxy: Proxy, stack: AsyncExitStack) -> None:
        self.cache = folder / "worker" / "cache"
        self.proxy = proxy
        self._folder = folder
        self._model = model
        self._stack = stack
        self.registry: ServerProcess
        self.worker: ServerProcess
        self.client: WorkerClient

    async def start_registry(self) -> None:
        """On its data, and on the port that the proxy leads to."""
        self.registry = await self._enter(registry_process(self._folder / "registry", listen=self.proxy.target))
        self.proxy.target = self.registry.target

    async def start_worker(self) -> None:
        """On the cache that an earlier one left."""
        settings = {"pool_bytes": POOL_BYTES, "wait_seconds": DEADLINE}
        self.worker = await self._enter(
            worker_process(self._folder / "worker", self._model, self.proxy.address, **settings)
        )
        self.client = await self._stack.enter_async_context(WorkerClient(self.worker.target, timeout=DEADLINE))

    async def _enter(self, starting: AbstractContextManager[ServerProcess]) -> ServerProcess:
        # In threads: the proxy in between lives on this event loop.
        process = await asyncio.to_thread(starting.__enter__)
        self._stack.push_async_callback(asyncio.to_thread, starting.__exit__, None, None, None)
        return process

    def path(self, name: str) -> Path:
        """The folder of an adapter."""
        return self._folder / "adapters" / name

    async def fill(self) -> None:
        """Publish every adapter."""
        async with RegistryClient(self.registry.target) as registry:
            await registry.register_base_model(MODEL_NAME, tiny_base())
            for seed, (name, options) in enumerate({**ADAPTERS, "big": BIG}.items()):
                await registry.push(tiny_adapter(self.path(name), seed, **options), name)

    async def digest(self, name: str) -> str:
        """A reference that the worker needs no registry for, once it has met it."""
        return f"{name}@{(await self.client.load(name)).digest}"

    async def reachable(self) -> bool:
        """Whether the worker has found the registry again."""
        try:
            await self.client.load("a1")
        except RegistryUnavailable:
            return False
        return True

    def right(self, name: str, given: Answer) -> bool:
        """Whether PEFT answers so, with the files that were pushed."""
        folders = [self.path(name)] if name else []
        return agrees(given, tiny_llama(), folders, [ord(character) + 3 for character in PROMPT])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory, model: Path) -> AsyncIterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    async with tcp_proxy("127.0.0.1:0", lambda _: None) as proxy, AsyncExitStack() as stack:
        town = Town(folder, model, proxy, stack)
        await town.start_registry()
        await town.fill()
        await town.start_worker()
        yield town


async def test_eight_adapters_and_the_base_at_once_answer_as_each_alone(town: Town) -> None:
    names = ["", *ADAPTERS]
    together = await asyncio.gather(*(answer(town.client, adapters=name or []) for name in names * 2))
    assert all(town.right(name, given) for name, given in zip(names, together, strict=False))
    alone = [await answer(town.client, adapters=name or []) for name in names]
    assert all(one.same_as(other) for one, other in zip(together, alone * 2, strict=True))
    assert len({tuple(given.tokens) for given in alone}) == len(names)


async def test_a_registry_that_is_killed_in_mid_pull_and_comes_back(town: Town) -> None:
    held = await town.digest("a1")
    town.registry.kill()
    stalling = town.proxy.connections
    stall = Fault(Kind.STALL, Way.DOWN, BIG_BYTES // 4)
    # The first that carries so much: the worker, which wants to hear its registry, connects in vain before.
    town.proxy.plan = lambda connection: stall if connection >= stalling and not town.proxy.stalled.is_set() else None
    await town.start_registry()
    await until(town.reachable)

    pulling = asyncio.create_task(answer(town.client, adapters="big"))
    await asyncio.wait_for(town.proxy.stalled.wait(), DEADLINE)
    assert town.right("a1", await answer(town.client, adapters=held))
    town.registry.kill()
    town.proxy.released.set()
    assert not pulling.done()
    await town.start_registry()

    assert town.right("big", await pulling)
    assert town.right("a2", await answer(town.client, adapters="a2"))


async def test_what_the_worker_holds_is_served_while_the_registry_is_down(town: Town) -> None:
    references = {name: await town.digest(name) for name in ("a1", "a2", "directed")}
    made = await town.client.combine({references["a1"]: 1, references["a2"]: 0.5}, "cat")
    route = await town.client.switch(references["directed"])
    combined = await answer(town.client, adapters=made.adapter)
    town.registry.kill()

    for name, reference in references.items():
        assert town.right(name, await answer(town.client, adapters=reference))
    assert town.right("directed", await answer(town.client, route="default"))
    assert town.right("", await answer(town.client, adapters=[]))
    assert (await answer(town.client, adapters=made.adapter)).same_as(combined)
    again = await town.client.combine({references["a1"]: 1, references["a2"]: 0.25}, "cat")
    assert not again.existed
    for name in ("a1", "a3", "nobody"):
        with pytest.raises(RegistryUnavailable) as caught:
            await answer(town.client, adapters=name)
        assert caught.value.retryable
    with pytest.raises(RegistryUnavailable):
        await town.client.combine({references["a1"]: 1}, "cat", publish="mix")
    assert await town.client.route() == route

    await town.start_registry()
    await until(town.reachable)
    assert town.right("a3", await answer(town.client, adapters="a3"))


async def test_a_killed_worker_serves_again_from_its_disk_cache_once_it_has_looked_at_it(town: Town) -> None:
    for name in ("big", "a4", "a6"):
        await town.client.load(name)
    generating = aiter(town.client.generate("x", adapters="big", max_new_tokens=2000, ignore_eos=True))
    await anext(generating)
    town.worker.kill()
    with pytest.raises(Unavailable):
        await anext(generating)

    blobs = {len(file.read_bytes()): file for file in (town.cache / "blobs").iterdir()}
    cut, flipped = (blobs[(town.path(name) / WEIGHTS_NAME).stat().st_size] for name in ("a4", "a6"))
    cut.write_bytes(cut.read_bytes()[:-1])
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    (town.cache / "tmp" / "half a pull").write_bytes(b"x" * 100)
    before = town.proxy.passed[Way.DOWN]
    await town.start_worker()

    for name in ("big", "a4", "a6"):
        assert town.right(name, await answer(town.client, adapters=name))
    (routed,) = (await town.client.route()).adapters

    async def resident() -> bool:
        held = {resident.names[0]: resident.tier async for resident in town.client.residents()}
        return held == dict.fromkeys(("big", "a4", "a6", routed.adapter), TIER_POOL)

    await until(resident)
    assert town.right("directed", await answer(town.client, route="default"))
    # The damaged files came again, the big one did not.
    assert cut.stat().st_size + flipped.stat().st_size < town.proxy.passed[Way.DOWN] - before < BIG_BYTES // 4
    assert not list((town.cache / "tmp").iterdir())
