"""The demo's adapters on its model, in float32: the worker answers as PEFT does, whatever it was asked before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from demo.model import NAME, ensure_model
from lorry import RegistryClient, WorkerClient
from lorry.fingerprint import base_facts
from lorry.v1.residency_pb2 import TIER_POOL
from tests.support.pair import Answer, answer, answer_of
from tests.support.peft_adapters import QUIET
from tests.support.registry import DEADLINE, running_registry
from tests.support.worker import RunningWorker, running_worker

pytestmark = [pytest.mark.asyncio(loop_scope="module"), QUIET]

ADAPTERS = Path(__file__).resolve().parents[2] / "demo" / "adapters"
NAMES = sorted(path.name for path in ADAPTERS.iterdir())
QUESTION = "Why is the sky blue?"
LENGTH = 4
PAIR = {"pirate": 0.7, "emoji": -0.4}
# All four are of 24 rows, a row of 1.42 MB: they fit, and nothing beside them.
POOL_BYTES = 24 * 1_420_000 + 1_000_000
MIB = 1 << 20

Selection = Mapping[str, float]
# What each is asked alone: the base, every adapter, and a pair.
SELECTIONS: list[Selection] = [{}, *({name: 1.0} for name in NAMES), PAIR]


class Oracle:
    """PEFT with all adapters loaded."""

    def __init__(self, adapted: PeftModel) -> None:
        self._adapted = adapted.eval()

    @torch.no_grad()
    def answer(self, selection: Selection, prompt: list[int], given: Answer) -> Answer:
        """What PEFT answers where it has taken the same tokens so far."""
        ids = torch.tensor([[*prompt, *given.tokens[:-1]]])
        with self._active(selection):
            return answer_of(self._adapted(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :])

    @contextmanager
    def _active(self, selection: Selection) -> Iterator[None]:
        if not selection:
            with self._adapted.disable_adapter():
                yield
            return
        self._adapted.base_model.set_adapter(list(selection))
        layers = [module for module in self._adapted.modules() if isinstance(module, LoraLayer)]
        before = [dict(layer.scaling) for layer in layers]
        for layer in layers:
            layer.scaling.update(
                {name: layer.scaling[name] * selection[name] for name in selection & layer.scaling.keys()}
            )
        yield
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)


@dataclass(frozen=True)
class Show:
    """The pair with the demo in it, what each selection answered alone, and the oracle."""

    client: WorkerClient
    serving: RunningWorker
    oracle: Oracle
    alone: list[Answer]

    @property
    def prompt(self) -> list[int]:
        return self.serving.tokenizer.encode_chat([("user", QUESTION)])

    async def ask(self, selection: Selection | None) -> Answer:
        """None: by the route `default`."""
        return await _ask(self.client, selection)

    def right(self, selection: Selection) -> Answer:
        return self.alone[SELECTIONS.index(selection)]


async def _ask(client: WorkerClient, selection: Selection | None) -> Answer:
    return await answer(client, None, messages=[("user", QUESTION)], adapters=selection, length=LENGTH)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def show(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Show]:
    folder, model = tmp_path_factory.mktemp("show"), ensure_model()
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    facts = base_facts(base)
    adapted = PeftModel.from_pretrained(base, ADAPTERS / NAMES[0], adapter_name=NAMES[0])
    for name in NAMES[1:]:
        adapted.load_adapter(ADAPTERS / name, adapter_name=name)
    budgets = {"pool_bytes": POOL_BYTES, "kv_bytes": 64 * MIB}
    async with (
        running_registry(folder / "registry") as address,
        running_worker(folder / "worker", model, address, model_name=NAME, **budgets) as serving,
        RegistryClient(address) as registry,
        WorkerClient(serving.target, timeout=DEADLINE) as client,
    ):
        assert serving.engine.base == facts
        await registry.register_base_model(NAME, facts, known_as=["HuggingFaceTB/SmolLM2-135M-Instruct"])
        for name in NAMES:
            await registry.push(ADAPTERS / name, name)
        alone = [await _ask(client, selection) for selection in SELECTIONS]
        yield Show(client, serving, Oracle(adapted), alone)


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda selection: "+".join(selection) or "base")
async def test_it_answers_as_peft_does(show: Show, selection: Selection) -> None:
    given = show.right(selection)
    assert given.same_as(show.oracle.answer(selection, show.prompt, given))


async def test_every_adapter_answers_in_its_own_way(show: Show) -> None:
    assert len({str(given.top[0]) for given in show.alone}) == len(SELECTIONS)


async def test_a_mixed_batch_answers_as_each_alone(show: Show) -> None:
    given = await asyncio.gather(*(show.ask(selection) for selection in SELECTIONS))
    assert all(one.same_as(other) for one, other in zip(given, show.alone, strict=True))


async def test_a_route_answers_as_what_it_was_switched_to(show: Show) -> None:
    for selection in (PAIR, {NAMES[0]: 1.0}, {}):
        await show.client.switch(selection)
        assert (await show.ask(None)).same_as(show.right(selection))


async def test_an_adapter_answers_the_same_after_eviction_and_reload(show: Show) -> None:
    # Takes 16 of the 24 rows. Powers of two: the stacked factors lose nothing in bfloat16.
    exact = {"pirate": 1.0, "letter": 0.5}
    expected = await show.ask(exact)
    combined = await show.client.combine(exact, "cat")
    assert (await show.ask({combined.adapter: 1.0})).same_as(expected)
    evicted = [each.names[0] async for each in show.client.residents() if each.tier != TIER_POOL]
    assert set(evicted) <= set(NAMES)
    assert evicted
    for name in evicted:
        assert (await show.ask({name: 1.0})).same_as(show.right({name: 1.0}))
    loads = [each.loads async for each in show.client.residents() if each.names[0] in evicted]
    assert min(loads) > 1
