from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lorry.errors import (
    AdapterNotFound,
    InvalidCombination,
    UnsupportedAdapter,
    UnsupportedCombination,
    VersionNotFound,
)
from lorry.fingerprint import base_facts
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME
from lorry.recipe import read
from lorry.v1.residency_pb2 import TIER_POOL
from tests.merge.support import RECIPES
from tests.support.models import tiny_model
from tests.support.pair import Answer, Pair, agrees, running_pair
from tests.support.peft_adapters import QUIET, save_adapter
from tests.support.worker import MODEL_NAME, save_model, tiny_adapter, tiny_llama

pytestmark = QUIET

SOURCES = {"first": 0.8, "second": -0.4}
TEMPLATE = "chat_template.jinja"


async def published(pair: Pair) -> list[str]:
    """Digests of the two sources."""
    versions = [await pair.publish("first"), await pair.publish("second", alpha=6)]
    return [version.digest for version in versions]


async def answered_by(pair: Pair, folder: Path, given: Answer) -> bool:
    return agrees(given, tiny_llama(), [folder], pair.serving.tokenizer.encode("the quick brown fox"))


@pytest.mark.parametrize(("method", "parameters"), RECIPES.items(), ids=list(RECIPES))
async def test_a_combination_is_served_and_published_with_its_lineage(
    pair: Pair, method: str, parameters: dict[str, Any]
) -> None:
    digests = await published(pair)
    made = await pair.worker.combine(SOURCES, method, publish="team/mix", alias="prod", **parameters)
    assert (made.existed, made.resident.combined, made.resident.tier) == (False, True, TIER_POOL)
    assert made.adapter == f"combined@{made.recipe_digest}"
    served = await pair.answer(made.adapter)

    version = await pair.registry.pull("team/mix:prod", pair.folder / "pulled")
    assert (version.digest, version.number) == (made.version.digest, 1)
    assert list(version.manifest.parents) == digests
    recipe = version.manifest.recipe
    assert (recipe.method, [source.weight for source in recipe.sources]) == (method, list(SOURCES.values()))
    assert parameters.items() <= json.loads(recipe.parameters_json).items()

    assert served.same_as(await pair.answer("team/mix"))
    assert await answered_by(pair, pair.folder / "pulled", served)


async def test_cat_is_what_the_weighted_pair_is(pair: Pair) -> None:
    await published(pair)
    made = await pair.worker.combine(SOURCES, "cat")
    assert (await pair.answer(made.adapter)).same_as(await pair.answer(SOURCES))


async def test_a_dry_run_reports_and_keeps_nothing(pair: Pair) -> None:
    await published(pair)
    exact = await pair.worker.combine(SOURCES, "cat", dry_run=True, publish="mix")
    linear = await pair.worker.combine(SOURCES, "linear", dry_run=True)
    assert [exact.dry_run.rank, linear.dry_run.rank] == [4, 2]
    assert exact.dry_run.size_bytes > linear.dry_run.size_bytes
    assert exact.dry_run.relative_error < 1e-6
    assert linear.dry_run.relative_error > 0.1
    assert linear.dry_run.worst_relative_error >= linear.dry_run.relative_error
    assert linear.dry_run.worst_module.startswith("model.layers.")
    assert (exact.adapter, exact.HasField("resident"), exact.HasField("version")) == ("", False, False)
    assert [each async for each in pair.worker.residents()] == []
    with pytest.raises(AdapterNotFound):
        await pair.registry.adapter("mix")
    made = await pair.worker.combine(SOURCES, "cat")
    assert (made.recipe_digest, made.existed) == (exact.recipe_digest, False)


async def test_a_dora_is_combined_against_the_workers_base(pair: Pair) -> None:
    await pair.publish("first", dora=True)
    await pair.publish("second")
    made = await pair.worker.combine("first", "svd", rank=48)
    alone, expected = await pair.answer(made.adapter), await pair.answer("first")
    assert alone.tokens == expected.tokens
    beside = await pair.worker.combine({"first": 1, "second": 0.5}, "ties_svd", density=0.5, dry_run=True)
    assert beside.dry_run.rank == 2
    with pytest.raises(UnsupportedCombination, match="against the base"):
        await pair.worker.combine(SOURCES, "cat")


async def test_a_published_recipe_makes_the_same_version_again(tmp_path: Path, model: Path) -> None:
    async with running_pair(tmp_path, model) as pair:
        await published(pair)
        made = await pair.worker.combine(SOURCES, "dare_ties_svd", density=0.5, seed=2**63, publish="team/mix")
        recipe = await pair.registry.recipe("team/mix")
        assert read(recipe.document()) == recipe
        await pair.publish("first", rank=3)  # names move on; what the recipe says does not
    shutil.rmtree(tmp_path / "worker")
    async with running_pair(tmp_path, model) as pair:
        again = await pair.worker.combine(recipe.sources, recipe.method, publish="team/mix", **recipe.parameters)
        assert (again.existed, again.recipe_digest) == (False, made.recipe_digest)
        assert (again.version.digest, again.version.number) == (made.version.digest, 1)


async def test_a_version_without_a_recipe_or_without_its_sources_has_none_to_write(pair: Pair) -> None:
    digests = await published(pair)
    await pair.worker.combine(SOURCES, "cat", publish="mix")
    with pytest.raises(InvalidCombination, match="first has no recipe"):
        await pair.registry.recipe("first")
    await pair.registry.delete_version(f"second@{digests[1]}", force=True)
    with pytest.raises(VersionNotFound, match=f"mix was made out of {digests[1]}"):
        await pair.registry.recipe("mix")


async def test_the_same_recipe_is_answered_from_what_is_there(pair: Pair) -> None:
    digests = await published(pair)
    first = await pair.worker.combine(SOURCES, "ties", density=0.5)
    by_digest = {f"{name}@{digest}": weight for digest, (name, weight) in zip(digests, SOURCES.items(), strict=True)}
    again = await pair.worker.combine(by_digest, "ties", density=0.5, majority_sign="total")
    assert (again.existed, again.recipe_digest) == (True, first.recipe_digest)
    other = await pair.worker.combine(SOURCES, "ties", density=0.6)
    assert (other.existed, other.recipe_digest != first.recipe_digest) == (False, True)


async def test_callers_who_combine_at_once_get_one_result(pair: Pair) -> None:
    await published(pair)
    made = await asyncio.gather(*(pair.worker.combine(SOURCES, "svd") for _ in range(4)))
    assert len({each.recipe_digest for each in made}) == 1
    assert [each.loads async for each in pair.worker.residents() if each.combined] == [1]


async def test_a_combination_can_be_switched_to_combined_again_and_unloaded(pair: Pair) -> None:
    await published(pair)
    inner = await pair.worker.combine(SOURCES, "cat")
    outer = await pair.worker.combine({inner.adapter: 0.5, "first": 1}, "cat")
    expected = await pair.answer({"first": 1.4, "second": -0.2})
    assert (await pair.answer(outer.adapter)).same_as(expected)
    await pair.worker.switch(outer.adapter)
    assert (await pair.answer(None)).same_as(expected)
    assert (await pair.worker.unload(inner.adapter)).was_resident
    assert (await pair.answer({inner.adapter: 1})).same_as(await pair.answer(SOURCES))


async def test_what_only_this_worker_has_cannot_be_a_parent(pair: Pair) -> None:
    await published(pair)
    inner = await pair.worker.combine(SOURCES, "cat")
    with pytest.raises(InvalidCombination, match="publish"):
        await pair.worker.combine([inner.adapter, "first"], "cat", publish="mix")
    with pytest.raises(AdapterNotFound):
        await pair.registry.adapter("mix")


async def test_a_combination_outlives_the_worker(tmp_path: Path, model: Path) -> None:
    async with running_pair(tmp_path, model) as pair:
        await published(pair)
        made = await pair.worker.combine(SOURCES, "dare_linear", density=0.5, seed=9)
        before = await pair.answer(made.adapter)
    async with running_pair(tmp_path, model) as pair:
        assert (await pair.answer(made.adapter)).same_as(before)
        assert (await pair.worker.combine(SOURCES, "dare_linear", density=0.5, seed=9)).existed
    for file in (tmp_path / "worker" / "combined").iterdir():
        file.unlink()
    async with running_pair(tmp_path, model) as pair:
        with pytest.raises((AdapterNotFound, VersionNotFound)):
            await pair.answer(made.adapter)
        again = await pair.worker.combine(SOURCES, "dare_linear", density=0.5, seed=9)
        assert (again.existed, again.recipe_digest) == (False, made.recipe_digest)
        assert (await pair.answer(made.adapter)).same_as(before)


async def test_the_same_combination_published_again_is_the_same_version(pair: Pair) -> None:
    await published(pair)
    made = await pair.worker.combine(SOURCES, "cat", publish="mix", description="both")
    assert (await pair.registry.adapter("mix")).description == "both"
    again = await pair.worker.combine(SOURCES, "cat", publish="mix")
    assert (again.existed, again.version.number) == (True, made.version.number)


async def test_the_wording_of_the_sources_comes_along_where_they_bring_one(pair: Pair) -> None:
    for seed, (name, template) in enumerate(
        {"one": "{{ 1 }}", "two": "{{ 1 }}", "other": "{{ 2 }}", "none": ""}.items()
    ):
        folder = tiny_adapter(pair.path(name), seed)
        if template:
            (folder / TEMPLATE).write_text(template)
        await pair.registry.push(folder, name)
    alike = await pair.worker.combine(["one", "two", "none"], "cat", publish="alike")
    assert TEMPLATE in {file.name for file in alike.version.manifest.files}
    await pair.registry.pull("alike", pair.folder / "pulled")
    assert (pair.folder / "pulled" / TEMPLATE).read_text() == "{{ 1 }}"
    unlike = await pair.worker.combine(["one", "other"], "cat", publish="unlike")
    assert {file.name for file in unlike.version.manifest.files} == {CONFIG_NAME, WEIGHTS_NAME}


async def test_what_the_base_could_not_serve_no_dry_run_promises(tmp_path: Path) -> None:
    model = tiny_model("qwen3")  # embedding and head are one
    async with running_pair(tmp_path, save_model(tmp_path / "tied", model), base_facts(model)) as pair:
        for name, trained in (
            ("head", {"target_modules": ["lm_head"]}),
            ("tokens", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]}),
        ):
            await pair.registry.push(save_adapter(model, tmp_path / name, r=2, **trained), name, base=MODEL_NAME)
        for dry_run in (True, False):
            with pytest.raises(UnsupportedAdapter, match="got two of them for one module"):
                await pair.worker.combine({"head": 1, "tokens": 1}, "cat", dry_run=dry_run)
