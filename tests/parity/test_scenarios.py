"""What people do with adapters in PEFT, done with a pair: docs/peft.md says which scenario of PEFT's is which test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from lorry.errors import AdapterNotFound, InvalidSelection
from lorry.selection import Adapters
from tests.support.adapters import CONFIG
from tests.support.pair import Answer, Pair, agrees, running_pair
from tests.support.peft_adapters import QUIET, save_adapter
from tests.support.steps import prompt
from tests.support.worker import MODEL_NAME, save_model, tiny_llama

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    QUIET,
    # PEFT trains a bias of lora_B where the base has none, and warns of merging it.
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning"),
]
TRAINED = [5, 17, 101]
TOKENS = [*prompt(12), *TRAINED]
# Some share modules, some have none in common, some replace something.
CONFIGS: dict[str, dict[str, Any]] = {
    "left": {"target_modules": ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"]},
    "right": {"target_modules": ["layers.1.self_attn.q_proj", "down_proj"]},
    "apart": {"target_modules": ["v_proj"]},
    "headed": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "headed-too": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "worded": {"target_modules": ["q_proj"], "trainable_token_indices": TRAINED},
    "biased": {"target_modules": ["q_proj", "up_proj"], "lora_bias": True},
}


class Shop:
    """A pair, and the adapters of CONFIGS: pushed when they are first asked for."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    async def push(self, *names: str) -> list[Path]:
        """Their folders."""
        folders = [self.pair.path(name) for name in names]
        for name, folder in zip(names, folders, strict=True):
            if not folder.exists():
                save_adapter(tiny_llama(), folder, seed=sum(name.encode()), r=4, lora_alpha=6, **CONFIGS[name])
                await self.pair.registry.push(folder, name, base=MODEL_NAME)
        return folders

    async def copy(self, name: str, of: str, **config: object) -> None:
        """Push the weights of one adapter under another name, with another word in its configuration."""
        (origin,) = await self.push(of)
        folder = self.pair.path(name)
        folder.mkdir()
        for file in origin.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        said = json.loads((folder / CONFIG).read_text()) | config
        (folder / CONFIG).write_text(json.dumps(said))
        await self.pair.registry.push(folder, name, base=MODEL_NAME)

    async def ask(self, adapters: Adapters | None = None) -> Answer:
        """An answer by the default route, or with these adapters."""
        return await self.pair.answer(adapters, prompt=None, tokens=TOKENS)

    async def right(self, given: Answer, *names: str, weights: Sequence[float] = ()) -> bool:
        """Whether PEFT says so with these active."""
        return agrees(given, tiny_llama(), await self.push(*names) if names else [], TOKENS, weights)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    async with running_pair(folder, save_model(folder / "model"), pool_bytes=4 << 20) as pair:
        yield Shop(pair)


async def test_a_switch_leaves_nothing_of_what_was_active_before(shop: Shop) -> None:
    order = ["left", "apart", "headed", "right", "worded", "left", "", "headed", ""]
    await shop.push(*CONFIGS)
    given = []
    for name in order:
        await shop.pair.worker.switch(name or ())
        given.append(await shop.ask())
        assert await shop.right(given[-1], *([name] if name else ())), name
    assert len({tuple(answer.top[0].items()) for answer in given}) == len(set(order))


async def test_the_base_and_back_is_the_state_before(shop: Shop) -> None:
    await shop.push("left", "right")
    await shop.pair.worker.switch({"left": 0.5, "right": 2.0})
    before = await shop.ask()
    assert await shop.right(before, "left", "right", weights=[0.5, 2.0])
    await shop.pair.worker.switch(())
    assert await shop.right(await shop.ask())
    await shop.pair.worker.rollback_route()
    assert (await shop.ask()).same_as(before)
    await shop.pair.worker.switch(())


@pytest.mark.parametrize("names", [("left", "right"), ("left", "apart"), ("left", "right", "apart")])
async def test_several_active_adapters_are_the_sum_of_each(shop: Shop, names: tuple[str, ...]) -> None:
    await shop.push(*names)
    together = await shop.ask(list(names))
    assert await shop.right(together, *names)
    combined = await shop.pair.worker.combine(list(names), "cat")
    assert (await shop.ask(combined.adapter)).same_as(together)


@pytest.mark.parametrize("other", ["headed-too", "worded", "left"])
async def test_who_replaces_something_is_active_alone(shop: Shop, other: str) -> None:
    await shop.push("headed", other)
    with pytest.raises(InvalidSelection, match="no other adapter beside it"):
        await shop.ask(["headed", other])
    with pytest.raises(InvalidSelection, match=r"expected weight 1, got 0\.5"):
        await shop.ask({"headed": 0.5})
    given = await asyncio.gather(shop.ask("headed"), shop.ask(other), shop.ask(()))
    assert await shop.right(given[0], "headed")
    assert await shop.right(given[1], other)
    assert await shop.right(given[2])


async def test_what_is_unloaded_leaves_the_others_as_they_are(shop: Shop) -> None:
    await shop.push("left", "right", "headed")
    before = [await shop.ask(name) for name in ("left", "right", "headed")]
    assert (await shop.pair.worker.unload("headed")).was_resident
    assert (await shop.pair.worker.unload("right")).was_resident
    assert (await shop.ask("left")).same_as(before[0])
    assert (await shop.pair.worker.unload("left")).was_resident
    assert await shop.right(await shop.ask(()))
    assert not (await shop.pair.worker.unload("left")).was_resident
    with pytest.raises(AdapterNotFound):
        await shop.pair.worker.unload("unknown")
    again = [await shop.ask(name) for name in ("left", "right", "headed")]
    assert all(one.same_as(other) for one, other in zip(again, before, strict=True))


async def test_an_unknown_name_fails_alone(shop: Shop) -> None:
    await shop.push("left")
    left, unknown, base = await asyncio.gather(
        shop.ask("left"), shop.ask("unknown"), shop.ask(()), return_exceptions=True
    )
    assert isinstance(unknown, AdapterNotFound)
    assert isinstance(left, Answer)
    assert isinstance(base, Answer)
    assert await shop.right(left, "left")
    assert await shop.right(base)


async def test_a_name_that_is_taken_gets_a_version_and_the_first_stays(shop: Shop) -> None:
    left, right = await shop.push("left", "right")
    for folder in (left, right):
        await shop.pair.registry.push(folder, "taken", base=MODEL_NAME)
    assert await shop.right(await shop.ask("taken@1"), "left")
    assert await shop.right(await shop.ask("taken"), "right")


async def test_an_adapters_name_makes_no_difference(shop: Shop) -> None:
    (folder,) = await shop.push("left")
    expected = await shop.ask("left")
    for name in ("default", "q_proj", "lora_a.weight", "lef", "left-and-more"):
        await shop.pair.registry.push(folder, name, base=MODEL_NAME)
        assert (await shop.ask(name)).same_as(expected)


@pytest.mark.parametrize("method", ["sum", "cat", "linear", "svd"])
async def test_two_that_undo_each_other_are_the_base(shop: Shop, method: str) -> None:
    await shop.push("left")
    await shop.copy(f"undo-{method}", "left", base_model_name_or_path=f"tiny-{method}")
    weights = {"left": 1.0, f"undo-{method}": -1.0}
    combined = await shop.pair.worker.combine(weights, method)
    for given in (await shop.ask(weights), await shop.ask(combined.adapter)):
        assert await shop.right(given)


async def test_a_weight_of_minus_one_is_the_negative(shop: Shop) -> None:
    await shop.push("left")
    negative = await shop.pair.worker.combine({"left": -1.0}, "linear")
    assert await shop.right(await shop.ask(negative.adapter), "left", weights=[-1.0])
    assert await shop.right(await shop.ask(["left", negative.adapter]))


async def test_a_bias_of_lora_needs_none_of_the_bases(shop: Shop) -> None:
    await shop.push("biased")
    given = await shop.ask({"biased": 0.5})
    assert await shop.right(given, "biased", weights=[0.5])
    assert not await shop.right(given)
