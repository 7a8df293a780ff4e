"""Every error that inference.proto and residency.proto name, by the call that ends in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from lorry import errors
from lorry.format.digest import digest_of
from lorry.v1 import inference_pb2 as pb
from lorry.v1 import residency_pb2
from lorry.v1.types_pb2 import Selection, WeightedAdapter
from tests.support.adapters import base_for
from tests.support.pair import Pair, running_pair
from tests.support.worker import SHAPES, tiny_adapter

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = f"plain@{digest_of(b'nobody')}"
NAN, INFINITY = float("nan"), float("inf")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory, model: Path) -> AsyncIterator[Pair]:
    """One pair for all refusals: what one leaves behind would show up in the next."""
    folder = tmp_path_factory.mktemp("pair")
    async with running_pair(folder, model, pool_bytes=32 * 4364, kv_bytes=128 * 256) as pair:
        await pair.publish("plain")
        await pair.publish("wide", rank=33)
        await pair.publish("directed", dora=True)
        await pair.publish("yanked")
        await pair.registry.yank("yanked@1", "it lies")
        elsewhere = base_for({name: (*shape, 2) for name, shape in SHAPES.items()}, vocab_size=131)
        await pair.registry.register_base_model("elsewhere", elsewhere)
        await pair.registry.push(tiny_adapter(folder / "foreign", 1, base_name=None), "foreign", base="elsewhere")
        await pair.stubs.call("Pin", adapter="plain")
        await pair.worker.switch("directed", route="held")
        yield pair


def adapters(*references: str | tuple[str, float]) -> list[WeightedAdapter]:
    pairs = [(each, 1.0) if isinstance(each, str) else each for each in references]
    return [WeightedAdapter(adapter=reference, weight=weight) for reference, weight in pairs]


def selection(*references: str | tuple[str, float]) -> dict[str, Any]:
    return {"text": "x", "selection": Selection(adapters=adapters(*references))}


def stop(**fields: Any) -> dict[str, Any]:
    return {"text": "x", "stop": pb.StopConditions(**fields)}


def sampling(**fields: Any) -> dict[str, Any]:
    return {"text": "x", "sampling": pb.Sampling(**fields)}


def chat(*messages: tuple[str, str]) -> dict[str, Any]:
    return {"chat": pb.Chat(messages=[pb.ChatMessage(role=role, content=content) for role, content in messages])}


def tokens(*ids: int) -> dict[str, Any]:
    return {"tokens": pb.TokenIds(ids=ids)}


# What the registry, or the grammar, refuses: the same for every call that names an adapter.
UNKNOWN = [
    ("pl ain", errors.InvalidName),
    ("plain@", errors.InvalidReference),
    ("plain@0", errors.InvalidReference),
    ("x" * 300, errors.InvalidReference),
    ("nobody", errors.AdapterNotFound),
    ("plain@2", errors.VersionNotFound),
    (NOBODY, errors.VersionNotFound),
    ("plain:prod", errors.AliasNotFound),
    ("yanked@1", errors.VersionYanked),
    ("yanked", errors.VersionNotFound),
    (f"combined@{digest_of(b'never made')}", errors.AdapterNotFound),
]
# What the worker cannot serve. Unload takes no part: there is nothing to serve. Combine reads its
# sources from disk; the pool has to hold the result alone.
UNSERVABLE = [("foreign", errors.IncompatibleAdapter), ("wide", errors.RequestTooLarge)]
METHODS = ["Load", "Pin", "Unload", "Switch", "Combine", "Generate"]
CASES = [
    *[(method, *case) for method in METHODS for case in UNKNOWN],
    *[(method, *case) for method in ("Load", "Pin", "Switch", "Generate") for case in UNSERVABLE],
    ("Combine", *UNSERVABLE[0]),
]


@pytest.mark.parametrize(("method", "reference", "error"), CASES, ids=[f"{m}-{r[:18]}" for m, r, _ in CASES])
async def test_a_reference_that_cannot_be_served(
    pair: Pair, method: str, reference: str, error: type[errors.LorryError]
) -> None:
    fields = {
        "Switch": {"targets": [pb.RouteTarget(selection=Selection(adapters=adapters(reference)))]},
        "Combine": {"sources": adapters(reference, "plain"), "cat": residency_pb2.CatMethod()},
        "Generate": selection(reference),
    }
    with pytest.raises(error) as caught:
        await pair.stubs.call(method, **fields.get(method, {"adapter": reference}))
    assert type(caught.value) is error
    assert await pair.idle()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, errors.InvalidInput),
        ({"text": ""}, errors.InvalidInput),
        (chat(), errors.InvalidInput),
        (chat(("villain", "hi")), errors.InvalidInput),
        (tokens(), errors.InvalidInput),
        (tokens(131), errors.InvalidInput),
        (tokens(-1), errors.InvalidInput),
        (sampling(temperature=-1), errors.InvalidInput),
        (sampling(temperature=NAN), errors.InvalidInput),
        (sampling(top_k=-1), errors.InvalidInput),
        (sampling(top_p=0), errors.InvalidInput),
        (sampling(min_p=1.1), errors.InvalidInput),
        (sampling(repetition_penalty=0), errors.InvalidInput),
        (stop(max_new_tokens=-1), errors.InvalidInput),
        (stop(strings=[""]), errors.InvalidInput),
        (stop(strings=["x"] * 17), errors.InvalidInput),
        (stop(strings=["x" * 257]), errors.InvalidInput),
        (stop(token_ids=[131]), errors.InvalidInput),
        (stop(token_ids=[3] * 65), errors.InvalidInput),
        ({"text": "x", "logprobs": 21}, errors.InvalidInput),
        ({"text": "x", "logprobs": -1}, errors.InvalidInput),
        ({"text": "x", "route": "nowhere"}, errors.RouteNotFound),
        ({"text": "x", "route": "No Name"}, errors.RouteNotFound),
        ({"text": "x" * 128}, errors.PromptTooLong),
        ({"text": "x" * 1_000_000}, errors.PromptTooLong),
        (selection("plain", "plain@1"), errors.InvalidSelection),
        (selection(("plain", NAN)), errors.InvalidSelection),
        (selection(("plain", INFINITY)), errors.InvalidSelection),
        (selection("directed", "plain"), errors.InvalidSelection),
        (selection(("directed", 0.5)), errors.InvalidSelection),
        (selection(*["plain"] * 17), errors.InvalidSelection),
    ],
)
async def test_a_generation_that_cannot_be_right(
    pair: Pair, fields: dict[str, Any], error: type[errors.LorryError]
) -> None:
    with pytest.raises(error) as caught:
        await pair.stubs.call("Generate", **fields)
    assert type(caught.value) is error
    assert len(caught.value.message) < 400
    assert await pair.idle()


@pytest.mark.parametrize(
    ("method", "fields", "error"),
    [
        ("Switch", {"route": "No Name", "targets": [pb.RouteTarget()]}, errors.InvalidName),
        ("Switch", {}, errors.InvalidSelection),
        ("Switch", {"targets": [pb.RouteTarget(share=0)]}, errors.InvalidSelection),
        ("Switch", {"targets": [pb.RouteTarget(share=NAN)]}, errors.InvalidSelection),
        ("Switch", {"targets": [pb.RouteTarget()] * 17}, errors.InvalidSelection),
        ("Switch", {"targets": [pb.RouteTarget(name="a")] * 2}, errors.InvalidSelection),
        ("Switch", {"targets": [pb.RouteTarget(), pb.RouteTarget(name="1")]}, errors.InvalidSelection),
        ("Switch", {"targets": [pb.RouteTarget(name="No Name")]}, errors.InvalidName),
        ("RollbackRoute", {"route": "nowhere"}, errors.RouteNotFound),
        ("RollbackRoute", {}, errors.NoEarlierVersion),
        ("RollbackRoute", {"revision": 1}, errors.NoEarlierVersion),
        ("DeleteRoute", {"route": "default"}, errors.InvalidInput),
        ("DeleteRoute", {"route": "nowhere"}, errors.RouteNotFound),
        ("ListRouteHistory", {"route": "nowhere"}, errors.RouteNotFound),
        ("Switch", {"targets": [pb.RouteTarget()], "expected_revision": 7}, errors.RevisionConflict),
        ("Switch", {"route": "new", "targets": [pb.RouteTarget()], "expected_revision": 1}, errors.RevisionConflict),
        ("GetRoute", {"route": "nowhere"}, errors.RouteNotFound),
        ("ListRoutes", {"page_token": "?"}, errors.InvalidPageToken),
        ("ListRoutes", {"page_token": "bm93aGVyZQ=="}, errors.InvalidPageToken),
        ("ListRoutes", {"page_size": -1}, errors.InvalidInput),
        ("ListResident", {"page_token": "\u00e9"}, errors.InvalidPageToken),
        ("ListResident", {"page_size": -1}, errors.InvalidInput),
        ("Unload", {"adapter": "plain"}, errors.AdapterPinned),
        ("Unload", {"adapter": "directed"}, errors.AdapterInUse),
        ("Pin", {"adapter": "plain", "ttl": {"seconds": 0}}, errors.InvalidInput),
        ("Pin", {"adapter": "plain", "ttl": {"seconds": -5}}, errors.InvalidInput),
    ],
)
async def test_a_call_that_cannot_be_right(
    pair: Pair, method: str, fields: dict[str, Any], error: type[errors.LorryError]
) -> None:
    with pytest.raises(error) as caught:
        await pair.stubs.call(method, **fields)
    assert type(caught.value) is error


TIES, DARE = residency_pb2.TiesMethod, residency_pb2.DareLinearMethod
CAT, SVD = residency_pb2.CatMethod, residency_pb2.SvdMethod


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"sources": ["plain"]}, errors.InvalidCombination),
        ({"cat": CAT()}, errors.InvalidCombination),
        ({"sources": ["plain", "plain@1"], "cat": CAT()}, errors.InvalidCombination),
        ({"sources": [("plain", NAN)], "cat": CAT()}, errors.InvalidCombination),
        ({"sources": ["plain"], "ties": TIES(density=1.5)}, errors.InvalidCombination),
        ({"sources": ["plain"], "ties": TIES(density=NAN)}, errors.InvalidCombination),
        ({"sources": ["plain"], "ties": TIES(density=0.5, majority_sign=7)}, errors.InvalidCombination),
        ({"sources": ["plain"], "dare_linear": DARE(density=0)}, errors.InvalidCombination),
        ({"sources": ["plain"], "svd": SVD(rank=-1)}, errors.InvalidCombination),
        ({"sources": ["plain"], "svd": SVD(clamp_quantile=2)}, errors.InvalidCombination),
        ({"sources": ["directed"], "cat": CAT()}, errors.UnsupportedCombination),
        ({"sources": ["plain"], "cat": CAT(), "publish": {"adapter": "No Name"}}, errors.InvalidName),
        ({"sources": ["plain"], "cat": CAT(), "publish": {"adapter": "mix@3"}}, errors.InvalidReference),
        ({"sources": ["plain"], "cat": CAT(), "publish": {"adapter": "mix", "alias": "!"}}, errors.InvalidName),
        ({"sources": ["plain"], "cat": CAT(), "publish": {"adapter": ""}}, errors.InvalidName),
    ],
)
async def test_a_combination_that_cannot_be_right(
    pair: Pair, fields: dict[str, Any], error: type[errors.LorryError]
) -> None:
    if "sources" in fields:
        fields = fields | {"sources": adapters(*fields["sources"])}
    with pytest.raises(error) as caught:
        await pair.stubs.call("Combine", **fields)
    assert type(caught.value) is error
    assert not [resident async for resident in pair.worker.residents() if resident.combined]


async def test_a_refusal_says_in_which_revision_the_route_is(pair: Pair) -> None:
    with pytest.raises(errors.RevisionConflict) as caught:
        await pair.worker.switch([], route="held", expected_revision=9)
    assert caught.value.metadata == {"revision": "1"}


async def test_a_kv_cache_that_is_smaller_than_the_context_bounds_a_request(tmp_path: Path, model: Path) -> None:
    async with running_pair(tmp_path, model, kv_bytes=128 * 256) as pair:
        assert pair.serving.engine.limits.max_context == 128
        with pytest.raises(errors.PromptTooLong):
            await pair.stubs.generate(text="x" * 128)
        assert (await pair.stubs.generate(text="x" * 127))[-1].finished.completion_tokens == 1
