"""The trained adapters on the real model, through the whole pair, against PEFT: 1e-4 in float32."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from demo.model import ensure_model
from lorry import RegistryClient, WorkerClient
from lorry.v1.residency_pb2 import TIER_POOL
from tests.support.adapters import write_adapter
from tests.support.pair import Answer, agrees, answer
from tests.support.peft_adapters import QUIET
from tests.support.registry import DEADLINE, running_registry
from tests.support.worker import RunningWorker, running_worker

DEMO = Path(__file__).resolve().parents[2] / "demo" / "adapters"
NAMES = ("emoji", "json", "letter", "pirate")
PROMPT = [("user", "Tell me about elephants.")]
# The four together take 24 rows of 1.42 MB; a fifth of rank 8 has to push somebody out.
POOL_BYTES = 26 * 1_420_032
WIDTH, NARROW = 576, 192

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("demo-model"), QUIET]


@dataclass(frozen=True)
class Demo:
    """The pair with the demo's adapters published, and the base as PEFT will have it."""

    worker: WorkerClient
    registry: RegistryClient
    serving: RunningWorker
    base: PreTrainedModel
    folder: Path

    async def answer(self, **options: object) -> Answer:
        return await answer(self.worker, None, tokens=self.prompt(), length=5, **options)

    def prompt(self) -> list[int]:
        return self.serving.tokenizer.encode_chat(PROMPT)

    def agrees(self, given: Answer, names: Sequence[str], weights: Sequence[float] = ()) -> bool:
        return agrees(given, self.base, [DEMO / name for name in names], self.prompt(), weights)

    async def tier(self, name: str) -> int:
        return {n: r.tier async for r in self.worker.residents() for n in r.names}.get(name, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    folder, model = tmp_path_factory.mktemp("demo"), ensure_model()
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    limits = {"pool_bytes": POOL_BYTES, "kv_bytes": 64 << 20, "max_context": 512}
    async with (
        running_registry(folder / "registry") as target,
        running_worker(folder / "worker", model, target, **limits) as serving,
        RegistryClient(target, timeout=DEADLINE) as registry,
        WorkerClient(serving.target, timeout=DEADLINE) as worker,
    ):
        await registry.register_base_model("smollm2", serving.engine.base)
        for name in NAMES:
            await registry.push(DEMO / name, name, base="smollm2")
        yield Demo(worker, registry, serving, base, folder)


@pytest.mark.parametrize("name", NAMES)
async def test_each_alone_is_what_peft_says(demo: Demo, name: str) -> None:
    assert demo.agrees(await demo.answer(adapters=[name]), [name])


async def test_all_of_them_and_the_base_in_one_batch(demo: Demo) -> None:
    selections: list[list[str]] = [[], *([name] for name in NAMES)]
    given = await asyncio.gather(*(demo.answer(adapters=selection) for selection in selections))
    assert [demo.agrees(one, names) for one, names in zip(given, selections, strict=True)] == [True] * 5


async def test_a_weighted_pair(demo: Demo) -> None:
    given = await demo.answer(adapters={"pirate": 0.7, "emoji": -0.25})
    assert demo.agrees(given, ["pirate", "emoji"], [0.7, -0.25])


async def test_a_switched_route(demo: Demo) -> None:
    await demo.worker.switch(["letter"])
    assert demo.agrees(await demo.answer(), ["letter"])
    await demo.worker.switch([])
    assert demo.agrees(await demo.answer(), [])


async def test_after_eviction_and_reload(demo: Demo) -> None:
    for name in NAMES:
        await demo.worker.load(name)
    modules = {f"model.layers.{n}.self_attn.v_proj": (WIDTH, NARROW, 8) for n in range(30)}
    await demo.registry.push(write_adapter(demo.folder / "fifth", modules), "fifth", base="smollm2")
    await demo.worker.load("fifth")
    assert await demo.tier(NAMES[0]) != TIER_POOL
    assert demo.agrees(await demo.answer(adapters=[NAMES[0]]), [NAMES[0]])
