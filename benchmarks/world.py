"""Both sides, running: registry and worker as processes of their own, the peer in another.

Owns start and stop, the adapters that lie in the registry, and which of them both sides hold. Does
not know the cases.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.adapters import RANK, Adapters
from benchmarks.measuring import process_seconds, tree_bytes
from benchmarks.peer import Kind, Peer, peer
from benchmarks.texts import Prompts
from demo.pair import server
from lorry import RegistryClient, WorkerClient
from lorry.generation import WHOLE
from lorry.v1.residency_pb2 import TIER_POOL
from lorry.v1.types_pb2 import MODULE_KIND_LINEAR, Module

PROMPT_TOKENS = 64
# What ours keeps weights, adapters, keys and values in: the type in which the demo's model and these adapters are
# published. It computes in what the CPU is fast at.
DTYPE = "bfloat16"
# Both sides get as many threads.
THREADS = 2
# So many adapters of rank RANK fit the pool.
POOL_ADAPTERS = 32
_BYTES = {"float32": 4, "bfloat16": 2}
# 8 requests of 1,032 tokens take 760 MB in float32; what is not used costs nothing.
KV_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Sides:
    """Who is measured, in which type of weights each, with how many threads both, and by which of CLOCKS."""

    dtype: str
    kind: Kind
    peer_dtype: str
    threads: int = THREADS
    clock: str = "wall"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. loads: adapters that are loaded in a row. transfer_bytes: size of the large one.

    long_requests, long_tokens: of the cases with long prompts.
    """

    requests: int = 32
    new_tokens: int = 64
    long_requests: int = 8
    long_tokens: int = 1024
    residents: int = 8
    loads: int = 24
    transfer_bytes: int = 64_000_000

    def settings(self, sides: Sides) -> dict[str, int | str]:
        """As results mention it."""
        types = {"dtype": sides.dtype, "peer_dtype": sides.peer_dtype}
        return (
            asdict(self)
            | {"prompt_tokens": PROMPT_TOKENS, "rank": RANK, "threads": sides.threads, "clock": sides.clock}
            | types
        )


QUICK = Scale(requests=8, new_tokens=16, long_requests=2, long_tokens=256, loads=4, transfer_bytes=16_000_000)


@dataclass(frozen=True, slots=True)
class World:
    """What cases work with. worker_pid: the worker's process. base: the base model's name in the registry."""

    sides: Sides
    scale: Scale
    registry: RegistryClient
    worker: WorkerClient
    worker_pid: int
    peer: Peer
    adapters: Adapters
    prompts: Prompts
    base: str
    state: Path

    def now(self) -> float:
        """Seconds of the clock that both sides are measured by: the wall's, or the worker's CPU time."""
        return time.perf_counter() if self.sides.clock == "wall" else process_seconds(self.worker_pid)

    @property
    def worker_bytes(self) -> int:
        """Resident memory of the worker's process."""
        return tree_bytes(self.worker_pid)

    async def publish(self, seed: int, rank: int = RANK, *, dora: bool = False) -> str:
        """Push the adapter of this seed; answers its name. Already there: nothing happens."""
        name = name_of(seed, rank, dora=dora)
        await self.registry.push(self.adapters.folder(seed, rank, dora=dora), name, base=self.base)
        return name

    async def reside(self, count: int) -> list[str]:
        """Let both sides hold the adapters 0 to `count` - 1, and the peer nothing else; answers their names."""
        names = [await self.publish(seed) for seed in range(count)]
        for name in names:
            await self.worker.load(name)
        if self.peer.kind.adapters and self.peer.loaded != set(map(local, names)):
            await self.peer.fresh()
            for seed, name in enumerate(names):
                await self.peer.load(local(name), self.adapters.folder(seed))
        return names

    async def empty(self) -> None:
        """Let neither side hold any adapter."""
        await self.worker.switch({})
        for resident in [resident async for resident in self.worker.residents()]:
            if resident.tier == TIER_POOL:
                await self.worker.unload(resident.names[0])
        await self.peer.fresh()

    async def answer(self, prompt: Sequence[int], adapters: str | Mapping[str, float] | None, new_tokens: int) -> float:
        """One request; seconds to its answer, which comes in one piece. Raises RuntimeError where tokens miss."""
        began, made = time.perf_counter(), 0
        generation = self.worker.generate(
            tokens=prompt, adapters=adapters or {}, max_new_tokens=new_tokens, ignore_eos=True, stream_interval=WHOLE
        )
        async for message in generation:
            made += len(message.delta.token_ids)
        if made != new_tokens:
            raise RuntimeError(f"expected {new_tokens} tokens, got {made}")
        return time.perf_counter() - began


def name_of(seed: int, rank: int = RANK, *, dora: bool = False) -> str:
    """Name of an adapter in the registry."""
    shape = "" if rank == RANK else f"-r{rank}"
    return f"benchmarks/random-{seed}{shape}{'-dora' if dora else ''}"


def local(name: str) -> str:
    """The same adapter's name at the peer: PEFT makes it a part of module paths."""
    return name.rpartition("/")[2]


@asynccontextmanager
async def world(model: str, sides: Sides, scale: Scale, state: Path) -> AsyncIterator[World]:
    """Start everything for the time of the block, with all of its files below `state`."""
    registry_settings = {
        "LORRY_REGISTRY_LISTEN": "127.0.0.1:0",
        "LORRY_REGISTRY_DATA_DIR": str(state / "registry"),
    }
    with server("adapter_registry", state / "registry", **registry_settings) as registry:
        address = await asyncio.to_thread(registry.address)
        base = await _register(model, address)
        async with RegistryClient(address) as client:
            modules = (await client.base_model(base)).modules
            settings = _worker_settings(model, address, sides, modules, state)
            with server("compute_worker", state / "worker", **settings) as worker:
                served_at = await asyncio.to_thread(worker.address)
                async with peer(sides.kind, (model, sides.peer_dtype, str(sides.threads)), sides.clock, state) as other:
                    shapes = {module.name: (module.in_features, module.out_features) for module in modules}
                    adapters = Adapters(state / "adapters", shapes)
                    async with WorkerClient(served_at) as service:
                        yield World(
                            sides,
                            scale,
                            client,
                            service,
                            worker.process.pid,
                            other,
                            adapters,
                            Prompts(model),
                            base,
                            state,
                        )


def _worker_settings(model: str, registry: str, sides: Sides, modules: Iterable[Module], state: Path) -> dict[str, str]:
    """Environment of the worker: its pool has room for POOL_ADAPTERS adapters and for no more."""
    of_row = sum(m.in_features + m.out_features for m in modules if m.kind == MODULE_KIND_LINEAR) * _BYTES[sides.dtype]
    return {
        "LORRY_WORKER_LISTEN": "127.0.0.1:0",
        "LORRY_WORKER_REGISTRY": registry,
        "LORRY_WORKER_MODEL": model,
        "LORRY_WORKER_CACHE_DIR": str(state / "worker"),
        "LORRY_WORKER_DTYPE": sides.dtype,
        "LORRY_WORKER_THREADS": str(sides.threads),
        "LORRY_WORKER_POOL_BYTES": str(of_row * RANK * POOL_ADAPTERS),
        "LORRY_WORKER_KV_BYTES": str(KV_BYTES),
    }


async def _register(model: str, registry: str) -> str:
    base = Path(model).name.lower()
    lorry = str(Path(sys.executable).with_name("lorry"))
    command = [lorry, "--registry", registry, "base", "register", model, "--name", base]
    await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    return base
