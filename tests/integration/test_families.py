"""An adapter of the parent base on a worker that serves a variant of it: real engine, real registry."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import PreTrainedModel

from lorry import RegistryClient, WorkerClient
from lorry.errors import IncompatibleAdapter
from lorry.fingerprint import base_facts
from lorry.format.compatibility import CarryOver
from tests.support.pair import PROMPT, agrees, answer
from tests.support.peft_adapters import QUIET
from tests.support.registry import DEADLINE, running_registry, until
from tests.support.worker import (
    MODEL_NAME,
    RunningWorker,
    running_worker,
    save_model,
    tiny_adapter,
    tiny_base,
    tiny_llama,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), QUIET]


def fine_tuned() -> PreTrainedModel:
    """The tiny base after a little training: same architecture, other weights."""
    model = copy.deepcopy(tiny_llama())
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.01)
    return model


@dataclass(frozen=True)
class Home:
    """A registry that knows parent and variant, and a worker that serves the variant."""

    registry: RegistryClient
    worker: WorkerClient
    serving: RunningWorker
    variant: PreTrainedModel
    folder: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Home]:
    folder = tmp_path_factory.mktemp("family")
    variant = fine_tuned()
    async with (
        running_registry(folder / "registry") as target,
        running_worker(folder / "worker", save_model(folder / "model", variant), target) as serving,
        RegistryClient(target, timeout=DEADLINE) as registry,
        WorkerClient(serving.target, timeout=DEADLINE) as worker,
    ):
        await registry.register_base_model(MODEL_NAME, tiny_base())
        await registry.register_base_model("variant", base_facts(variant), derived_from=tiny_base().base_id)
        yield Home(registry, worker, serving, variant, folder)


async def test_a_variant_serves_its_parents_adapters_where_it_says_so(home: Home) -> None:
    path = tiny_adapter(home.folder / "pirate", seed=5)
    published = await home.registry.push(path, "pirate", base=MODEL_NAME)
    assert published.manifest.base_id == tiny_base().base_id
    with pytest.raises(IncompatibleAdapter, match="BASE_MISMATCH"):
        await answer(home.worker, adapters="pirate")
    await home.registry.update_base_model("variant", carry_over=CarryOver.WARN)
    given = await answer(home.worker, adapters="pirate")
    assert agrees(given, home.variant, [path], home.serving.tokenizer.encode(PROMPT))
    assert not given.same_as(await answer(home.worker, adapters=[]))


async def test_what_is_made_of_them_here_belongs_to_the_variant(home: Home) -> None:
    await home.registry.update_base_model("variant", carry_over=CarryOver.ALLOW)
    for seed, name in enumerate(("left", "right")):
        await home.registry.push(tiny_adapter(home.folder / name, seed), name, base=MODEL_NAME)
    await home.worker.combine({"left": 1.0, "right": 0.5}, "cat", publish="both")
    made = await home.registry.resolve("both")
    assert made.manifest.base_id == base_facts(home.variant).base_id
    fits = {verdict.base_model: verdict.compatible async for verdict in home.registry.verdicts("both")}
    assert fits == {MODEL_NAME: False, "variant": True}


async def test_a_running_worker_hears_that_its_base_takes_them_no_more(home: Home) -> None:
    await home.registry.push(tiny_adapter(home.folder / "sailor", seed=6), "sailor", base=MODEL_NAME)
    await home.registry.update_base_model("variant", carry_over=CarryOver.ALLOW)
    await answer(home.worker, adapters="sailor")
    await home.registry.update_base_model("variant", carry_over=CarryOver.REFUSE)

    async def refused() -> bool:
        try:
            await answer(home.worker, adapters="sailor")
        except IncompatibleAdapter:
            return True
        return False

    await until(refused)
