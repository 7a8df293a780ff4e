"""Shares, sessions and scale over the wire, against PEFT where it has the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lorry.errors import InvalidInput, InvalidSelection
from tests.support.pair import PROMPT, Answer, Pair, agrees, answer
from tests.support.peft_adapters import QUIET
from tests.support.worker import tiny_llama

pytestmark = QUIET


def as_peft(pair: Pair, given: Answer, names: Sequence[str], weights: Sequence[float] = ()) -> bool:
    """Whether PEFT with these adapters set active, each scaled, answers the same; with none: adapters disabled."""
    prompt = pair.serving.tokenizer.encode(PROMPT)
    return agrees(given, tiny_llama(), [pair.path(name) for name in names], prompt, weights)


async def started(pair: Pair, **fields: Any) -> Any:
    return (await pair.stubs.generate(text="x", stop={"max_new_tokens": 1}, **fields))[0].started


async def test_a_route_does_what_pefts_set_adapter_scale_and_disable_do(pair: Pair) -> None:
    for name in ("one", "two"):
        await pair.publish(name)
    for selection, names, weights in (
        ("one", ["one"], [1.0]),
        (["one", "two"], ["one", "two"], [1.0, 1.0]),
        ({"one": 0.5, "two": -1.5}, ["one", "two"], [0.5, -1.5]),
        ([], [], []),
    ):
        await pair.worker.switch(selection)
        assert as_peft(pair, await answer(pair.worker), names, weights)
        for scale in (0.25, 0.0, -1.0):
            scaled = await answer(pair.worker, scale=scale)
            assert as_peft(pair, scaled, names, [weight * scale for weight in weights])
    # For one request alone, whatever the route has.
    await pair.worker.switch(["one", "two"])
    assert as_peft(pair, await pair.answer([]), [])
    assert as_peft(pair, await pair.answer({"two": 0.5}, scale=2.0), ["two"])


async def test_each_branch_of_a_route_is_served_as_it_is_told(pair: Pair) -> None:
    for name in ("one", "two"):
        await pair.publish(name)
    branches = {"plain": (1.0, "one"), "mixed": (1.0, {"one": 0.5, "two": 0.5}), "base": (1.0, [])}
    route = await pair.worker.split(branches, route="tour")
    shown = {t.name: [(a.adapter, a.weight) for a in t.adapters] for t in route.targets}
    assert shown == {"plain": [("one", 1)], "mixed": [("one", 0.5), ("two", 0.5)], "base": []}
    expected = {name: await pair.answer(adapters) for name, (_, adapters) in branches.items()}
    seen = set()
    for user in map(str, range(20)):
        branch = (await started(pair, route="tour", affinity=user)).branch
        assert (await answer(pair.worker, route="tour", affinity=user)).same_as(expected[branch])
        seen.add(branch)
    assert seen == set(branches)


async def test_a_session_answers_as_before_when_its_route_has_moved(pair: Pair) -> None:
    for name in ("one", "two"):
        await pair.publish(name)
    await pair.worker.switch("one")
    before = await answer(pair.worker, session="talk")
    await pair.worker.switch("two")
    assert (await answer(pair.worker, session="talk")).same_as(before)
    assert (await answer(pair.worker, session="talk", follow=True)).same_as(await pair.answer("two"))
    assert (await started(pair, session={"id": "talk"})).new_session is False


async def test_a_rollback_is_told_in_the_history(pair: Pair) -> None:
    first = await pair.publish("one")
    for selection in ("one", []):
        await pair.worker.switch(selection, route="tour")
    back = await pair.worker.rollback_route("tour")
    assert [a.digest for a in back.adapters] == [first.digest]
    history = [r async for r in pair.worker.route_history("tour")]
    assert [(r.revision, len(r.adapters)) for r in history] == [(3, 1), (2, 0), (1, 1)]
    assert history[0] == back
    await pair.worker.delete_route("tour", expected_revision=3)
    assert [r.name async for r in pair.worker.routes()] == ["default"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"scale": float("inf")}, InvalidInput),
        ({"affinity": "x" * 257}, InvalidInput),
        ({"session": {"id": "x" * 129}}, InvalidInput),
        ({"session": {"follow": True}}, InvalidInput),
        ({"selection": {"adapters": [{"adapter": "one", "weight": 1e308}]}, "scale": 1e308}, InvalidSelection),
        ({"selection": {"adapters": [{"adapter": "dora"}]}, "scale": 0.5}, InvalidSelection),
    ],
)
async def test_what_cannot_be_right_is_refused(pair: Pair, fields: dict[str, Any], error: type[Exception]) -> None:
    await pair.publish("one")
    await pair.publish("dora", dora=True)
    with pytest.raises(error):
        await started(pair, **fields)
