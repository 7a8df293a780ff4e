"""A pair over a tiny base of a family, one adapter of each kind that fits it, and what PEFT answers in its place.

Owns the kinds, what stands beside each of them, and the distance between an answer and PEFT's logits. Does not know
how near is near enough.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from compute_worker.contract import Computed, Engine, StepRow
from lorry.fingerprint import base_facts
from lorry.selection import Adapters
from tests.support.kinds import resized_model
from tests.support.models import config_of, from_config
from tests.support.pair import Answer, Pair, running_pair
from tests.support.peft_adapters import adapted_model, logits_of, save_adapter
from tests.support.registry import until
from tests.support.steps import prompt
from tests.support.worker import MODEL_NAME, save_model, tiny_llama

# Room for all kinds of a family at once, what does not fit rank rows included.
POOL_BYTES = 4 << 20

# In no prompt by chance: ids that `prompt` may draw, in an order of their own.
INVOCATION = [101, 17, 101]
# Rows of tokens that every prompt has, of some that answers may have, and of the last one.
TRAINED = [5, 17, 40, 77, 101, 130]
ATTENTION = ("q_proj", "v_proj")
# No module of the tiny models has a larger rank: an svd of this rank loses nothing.
FULL = 64
# The weights of two that are active together; a combination is of the one whole, and a share of the other.
BESIDE, SHARE = 0.7, -0.4


@dataclass(frozen=True)
class Kind:
    """A kind of adapter: its configuration for PEFT on a base of `family`.

    exclusive: why it stands alone in a selection, a part of the refusal; empty where it does not. uncombined: likewise,
    why no method takes it. tokens: of its own
    vocabulary, where it was trained on the base resized.
    """

    name: str
    config: dict[str, Any]
    family: str = "llama"
    exclusive: str = ""
    uncombined: str = ""
    method: str = "sum"
    parameters: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0

    def __str__(self) -> str:
        return self.name.replace(",", "").replace(" ", "-")

    @property
    def how(self) -> str:
        """A remark where it is not combined like the others."""
        return "" if self.method == "sum" else f"({self.method})"


def _lora(*targets: str, **config: object) -> dict[str, Any]:
    return {"r": 4, "lora_alpha": 6, "target_modules": list(targets or ATTENTION), **config}


_ACTIVATED = Kind("activated", _lora(alora_invocation_tokens=INVOCATION))
KINDS = (
    Kind("lora", _lora()),
    Kind("rslora", _lora(use_rslora=True)),
    Kind("dora", _lora(use_dora=True), exclusive="is DoRA", method="svd", parameters={"rank": FULL}),
    Kind("rank and alpha patterns", _lora(rank_pattern={"v_proj": 7}, alpha_pattern={"layers.0.self_attn.q_proj": 3})),
    Kind("embedding", _lora("embed_tokens", "q_proj")),
    Kind("saved head", _lora(modules_to_save=["lm_head"]), exclusive="replaces lm_head"),
    Kind("saved embedding and head", _lora(modules_to_save=["embed_tokens", "lm_head"]), exclusive="replaces lm_head"),
    Kind(
        "own vocabulary", _lora(modules_to_save=["embed_tokens", "lm_head"]), exclusive="replaces lm_head", tokens=140
    ),
    Kind("trained tokens", _lora(trainable_token_indices=TRAINED), exclusive="has tokens of its own"),
    Kind("saved norm and linear", _lora(modules_to_save=["norm", "o_proj"]), exclusive="replaces"),
    _ACTIVATED,
    Kind("embedding, tied", _lora("embed_tokens", "q_proj"), "qwen3"),
    Kind("trained tokens, tied", _lora(trainable_token_indices=TRAINED), "qwen3", exclusive="has tokens of its own"),
    Kind("lora_bias", _lora("q_proj", "fc1", lora_bias=True), "opt"),
    Kind("trained biases", _lora("q_proj", "fc1", bias="all"), "opt", exclusive="has biases of its own"),
    Kind("conv1d", _lora("c_attn", "c_proj"), "gpt2"),
    Kind(
        "stacked experts",
        _lora(target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
        "mixtral",
        uncombined="LoRA on stacked experts",
    ),
)
# What stands beside the kinds of a family. An activated LoRA is combined with one that is active from the same place.
_OTHERS = {
    "llama": Kind("other", {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]}),
    "qwen3": Kind("other", {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]}),
    "opt": Kind("other", {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "fc2"]}),
    "mixtral": Kind("other", {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "o_proj"]}),
    "gpt2": Kind("other", {"r": 3, "lora_alpha": 5, "target_modules": ["c_attn", "c_fc"]}),
}
_LIKEWISE = Kind("activated-too", {**_OTHERS["llama"].config, "alora_invocation_tokens": INVOCATION})


@dataclass(frozen=True)
class Given:
    """A greedy answer of the worker to a prompt of token ids."""

    prompt: list[int]
    answer: Answer

    def distance(self, model: nn.Module) -> float:
        """The largest difference of a log-probability that was told from the model's."""
        logits = logits_of(model, [*self.prompt, *self.answer.tokens[:-1]])[len(self.prompt) - 1 :]
        rows = logits.log_softmax(-1)
        return max(
            abs(value - float(row[token]))
            for row, top in zip(rows, self.answer.top, strict=True)
            for token, value in top.items()
        )


class Bench:
    """One family's pair. Adapters are made and pushed when they are first asked for."""

    def __init__(self, family: str, model: PreTrainedModel, pair: Pair) -> None:
        self._family = family
        self._model = model
        self._pair = pair
        self._mixed: dict[str, Given] = {}
        self._alone: dict[str, nn.Module] = {}

    async def alone(self, kind: Kind) -> tuple[float, float]:
        """How far its answer is from PEFT's, and from the base's."""
        expected = await self._adapted(kind)
        given = await self._ask(1, str(kind))
        return given.distance(expected), given.distance(self._base(kind))

    async def mixed(self, kind: Kind) -> float:
        """The same, where all kinds of the family and the base run in one step."""
        kinds = [one for one in KINDS if one.family == self._family]
        for one in kinds:
            await self._made(one)
        if not self._mixed:
            self._mixed = await self._at_once([*map(str, kinds), ""])
        return max(self._mixed[str(kind)].distance(await self._adapted(kind)), self._mixed[""].distance(self._model))

    async def weighted(self, kind: Kind) -> float:
        """Two adapters at once, each with a weight."""
        folders = [await self._made(kind), await self._made(_OTHERS[self._family])]
        given = await self._ask(2, {str(kind): BESIDE, "other": SHARE})
        return given.distance(adapted_model(self._model, folders, [BESIDE, SHARE]))

    async def reloaded(self, kind: Kind) -> float:
        """Out of the pool and of host memory, another in its place, and in again."""
        expected, worker = await self._adapted(kind), self._pair.worker
        before = await worker.load(str(kind))
        assert (await worker.unload(str(kind))).was_resident
        await self._made(_OTHERS[self._family])
        await worker.load("other")
        given = await self._ask(3, str(kind))
        assert (await worker.load(str(kind))).loads > before.loads
        return given.distance(expected)

    async def combined(self, kind: Kind) -> float:
        """One adapter made of it and of another, served unpublished, and both of them in PEFT."""
        made = await self._combine(kind)
        given = await self._ask(4, made.adapter)
        folders = [await self._made(kind), await self._made(self._partner(kind))]
        if not kind.exclusive:  # a tied head would take a merged embedding over, and nothing merges what is activated
            return given.distance(adapted_model(self._model, folders, [1, SHARE]))
        merged = PeftModel.from_pretrained(copy.deepcopy(self._base(kind)), folders[0]).merge_and_unload()
        return given.distance(adapted_model(merged, folders[1:], [SHARE]))

    async def published(self, kind: Kind) -> float:
        """The same, published and pulled again: the worker's answer, and that of PEFT with the files."""
        name = f"{kind}-and-another"
        await self._combine(kind, publish=name)
        pulled = self._pair.folder / "pulled" / name
        await self._pair.registry.pull(name, pulled)
        return (await self._ask(5, name)).distance(adapted_model(self._base(kind), [pulled]))

    async def _combine(self, kind: Kind, publish: str = "") -> Any:
        partner = self._partner(kind)
        for one in (kind, partner):
            await self._made(one)
        weights = {str(kind): 1.0, str(partner): SHARE}
        return await self._pair.worker.combine(weights, kind.method, publish=publish, **kind.parameters)

    async def _adapted(self, kind: Kind) -> nn.Module:
        """PEFT with the adapter alone."""
        folder = await self._made(kind)
        if str(kind) not in self._alone:
            self._alone[str(kind)] = adapted_model(self._base(kind), [folder])
        return self._alone[str(kind)]

    def _base(self, kind: Kind) -> PreTrainedModel:
        return resized_model(self._family, kind.tokens) if kind.tokens else self._model

    def _partner(self, kind: Kind) -> Kind:
        return _LIKEWISE if kind is _ACTIVATED else _OTHERS[self._family]

    async def _made(self, kind: Kind) -> Path:
        """Its files, in the registry from now on."""
        folder = self._pair.path(str(kind))
        if not folder.exists():
            save_adapter(self._base(kind), folder, seed=sum(kind.name.encode()), **kind.config)
            await self._pair.registry.push(folder, str(kind), base=MODEL_NAME)
        return folder

    async def _ask(self, seed: int, adapters: Adapters = (), length: int = 6) -> Given:
        """A prompt of its own for each use, so that nothing comes from what was computed for another."""
        tokens = [*prompt(11, seed), *INVOCATION, *prompt(6, seed + 100)]
        return Given(tokens, await self._pair.answer(adapters, prompt=None, tokens=tokens, length=length))

    async def _at_once(self, names: Sequence[str]) -> dict[str, Given]:
        for name in filter(None, names):
            await self._pair.worker.load(name)
        with held_up(self._pair.serving.engine) as gate:
            opener = asyncio.create_task(self._ask(6))
            await asyncio.to_thread(gate.reached.wait)
            asked = [asyncio.create_task(self._ask(7, name or ())) for name in names]
            await until(lambda: self._waiting(len(names)))
            # Who is counted as waiting is on its way to the engine: some turns of the loop more.
            for _ in range(3):
                await self._waiting(len(names))
            gate.opened.set()
            given = await asyncio.gather(*asked)
            await opener
        assert gate.widest > len(names)  # and the opener
        return dict(zip(names, given, strict=True))

    async def _waiting(self, count: int) -> bool:
        return await self._pair.used("queue") == count


class Gate:
    """Holds an engine's next step up until it is opened. widest: the most selections in a step since."""

    def __init__(self, engine: Engine) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.widest = 0
        self._step = engine.step

    def step(self, rows: Sequence[StepRow]) -> list[Computed]:
        """See Engine."""
        self.reached.set()
        self.opened.wait()
        self.widest = max(self.widest, len(rows))
        return self._step(rows)


@contextmanager
def held_up(engine: Engine) -> Iterator[Gate]:
    """The engine behind a gate, which is open in the end."""
    gate = Gate(engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "step", gate.step)
        try:
            yield gate
        finally:
            gate.opened.set()


@asynccontextmanager
async def running_bench(family: str, folder: Path) -> AsyncIterator[Bench]:
    """A pair over the family's tiny model."""
    model = tiny_llama() if family == "llama" else from_config(config_of(family))
    served = save_model(folder / "model", model)
    async with running_pair(folder, served, base_facts(model), pool_bytes=POOL_BYTES) as pair:
        yield Bench(family, model, pair)
