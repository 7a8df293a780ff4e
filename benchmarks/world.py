"""Both sides, running: registry and worker as processes of their own, PEFT in another.

Owns start and stop, the adapters that lie in the registry, and which of them both sides hold. Does
not know the cases.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.adapters import RANK, Adapters
from benchmarks.peer import ROOT, Peft, peft
from demo.pair import server
from lorry import RegistryClient, WorkerClient
from lorry.v1.residency_pb2 import TIER_POOL

PROMPT_TOKENS = 64
# Both sides get as many threads of torch.
THREADS = 2
# 32 adapters of rank 16 take 625 MB in float32; what is not used costs nothing.
_POOL_BYTES = 768 << 20
# Text that people wrote; between them more than 32 prompts' worth.
_TEXTS = ("letter", "pirate")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. loads: adapters that are loaded in a row. transfer_bytes: size of the large one."""

    requests: int = 32
    new_tokens: int = 64
    residents: int = 8
    loads: int = 16
    transfer_bytes: int = 64_000_000

    def settings(self, dtype: str) -> dict[str, int | str]:
        """As results mention it."""
        return asdict(self) | {"prompt_tokens": PROMPT_TOKENS, "rank": RANK, "threads": THREADS, "dtype": dtype}


QUICK = Scale(requests=8, new_tokens=16, loads=4, transfer_bytes=16_000_000)


@dataclass(frozen=True, slots=True)
class World:
    """What cases work with. prompts: `scale.requests` of PROMPT_TOKENS ids each."""

    scale: Scale
    registry: RegistryClient
    worker: WorkerClient
    peft: Peft
    adapters: Adapters
    prompts: Sequence[Sequence[int]]
    base: str
    state: Path

    async def publish(self, seed: int) -> str:
        """Push the adapter of this seed; answers its name. Already there: nothing happens."""
        await self.registry.push(self.adapters.folder(seed), name_of(seed), base=self.base)
        return name_of(seed)

    async def reside(self, count: int) -> list[str]:
        """Let both sides hold the adapters 0 to `count` - 1, and the peer nothing else; answers their names."""
        names = [await self.publish(seed) for seed in range(count)]
        for name in names:
            await self.worker.load(name)
        if self.peft.loaded != set(map(local, names)):
            await self.peft.fresh()
            for seed, name in enumerate(names):
                await self.peft.load(local(name), self.adapters.folder(seed))
        return names

    async def empty(self) -> None:
        """Let neither side hold any adapter."""
        await self.worker.switch({})
        for resident in [resident async for resident in self.worker.residents()]:
            if resident.tier == TIER_POOL:
                await self.worker.unload(resident.names[0])
        await self.peft.fresh()

    async def answer(self, prompt: Sequence[int], adapter: str | None, new_tokens: int) -> float:
        """One request; seconds to its first token. Raises RuntimeError where tokens are missing."""
        began, first, made = time.perf_counter(), 0.0, 0
        generation = self.worker.generate(
            tokens=prompt, adapters=adapter or {}, max_new_tokens=new_tokens, ignore_eos=True
        )
        async for message in generation:
            made += len(message.delta.token_ids)
            first = first or (time.perf_counter() - began if made else 0.0)
        if made != new_tokens:
            raise RuntimeError(f"expected {new_tokens} tokens, got {made}")
        return first


def name_of(seed: int) -> str:
    """Name of an adapter in the registry."""
    return f"benchmarks/random-{seed}"


def local(name: str) -> str:
    """The same adapter's name in PEFT, which makes it a part of module paths."""
    return name.rpartition("/")[2]


@asynccontextmanager
async def world(model: str, dtype: str, scale: Scale, state: Path) -> AsyncIterator[World]:
    """Start everything for the time of the block, with all of its files below `state`."""
    registry_settings = {
        "LORRY_REGISTRY_LISTEN": "127.0.0.1:0",
        "LORRY_REGISTRY_DATA_DIR": str(state / "registry"),
    }
    with server("adapter_registry", state / "registry", **registry_settings) as registry:
        address = await asyncio.to_thread(registry.address)
        worker_settings = {
            "LORRY_WORKER_LISTEN": "127.0.0.1:0",
            "LORRY_WORKER_REGISTRY": address,
            "LORRY_WORKER_MODEL": model,
            "LORRY_WORKER_CACHE_DIR": str(state / "worker"),
            "LORRY_WORKER_DTYPE": dtype,
            "LORRY_WORKER_THREADS": str(THREADS),
            "LORRY_WORKER_POOL_BYTES": str(_POOL_BYTES),
        }
        with server("compute_worker", state / "worker", **worker_settings) as worker:
            base = await _register(model, address)
            served_at = await asyncio.to_thread(worker.address)
            async with peft(model, dtype, THREADS, state) as peer, RegistryClient(address) as client:
                await peer.ready()
                table = (await client.base_model(base)).modules
                shapes = {module.name: (module.in_features, module.out_features) for module in table}
                adapters = Adapters(state / "adapters", shapes)
                async with WorkerClient(served_at) as service:
                    yield World(scale, client, service, peer, adapters, prompts(model, scale.requests), base, state)


async def _register(model: str, registry: str) -> str:
    base = Path(model).name.lower()
    lorry = str(Path(sys.executable).with_name("lorry"))
    command = [lorry, "--registry", registry, "base", "register", model, "--name", base]
    await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    return base


def prompts(model: str, count: int) -> list[list[int]]:
    """`count` prompts of PROMPT_TOKENS ids: windows of the demo's texts, side by side."""
    lines = [line for name in _TEXTS for line in (ROOT / "demo" / "data" / f"{name}.jsonl").read_text().splitlines()]
    text = "\n".join("{prompt} {answer}".format(**json.loads(line)) for line in lines)
    ids = Tokenizer.from_file(str(Path(model) / "tokenizer.json")).encode(text).ids
    if len(ids) < count * PROMPT_TOKENS:
        raise ValueError(f"expected {count * PROMPT_TOKENS} tokens of text, got {len(ids)}")
    return [ids[start : start + PROMPT_TOKENS] for start in range(0, count * PROMPT_TOKENS, PROMPT_TOKENS)]
