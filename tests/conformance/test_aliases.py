"""Aliases: SetAlias, DeleteAlias, RollbackAlias, ListAliases, all by compare-and-swap."""

from __future__ import annotations

import asyncio

import pytest

from lorry.errors import (
    AdapterNotFound,
    AliasNotFound,
    InvalidName,
    NoEarlierVersion,
    RevisionConflict,
    VersionNotFound,
    VersionYanked,
)
from tests.conformance.guest import Guest


async def test_an_alias_moves_by_compare_and_swap_and_keeps_its_history(guest: Guest) -> None:
    first, second = await guest.several(2)
    made = (await guest.call("SetAlias", adapter="pirate@1", alias="prod", expected_revision=0)).alias
    moved = (await guest.call("SetAlias", adapter="pirate@2", alias="prod", expected_revision=made.revision)).alias
    assert (made.digest, moved.digest, moved.revision) == (first.digest, second.digest, made.revision + 1)
    for stale in (0, made.revision):
        with pytest.raises(RevisionConflict) as caught:
            await guest.call("SetAlias", adapter="pirate@1", alias="prod", expected_revision=stale)
        assert caught.value.metadata["revision"] == str(moved.revision)
        with pytest.raises(RevisionConflict):
            await guest.call("DeleteAlias", adapter="pirate", alias="prod", expected_revision=stale)
    (now,) = (await guest.call("ListAliases", adapter="pirate")).aliases
    assert now == moved
    await guest.call("DeleteAlias", adapter="pirate", alias="prod", expected_revision=moved.revision)
    history = (await guest.call("ListAliases", adapter="pirate", history_of="prod")).aliases
    assert [move.digest for move in history] == ["", second.digest, first.digest]
    with pytest.raises(AliasNotFound):
        await guest.call("DeleteAlias", adapter="pirate", alias="prod")
    assert not (await guest.call("ListAliases", adapter="pirate")).aliases


async def test_of_many_that_swap_at_once_one_wins(guest: Guest) -> None:
    await guest.several(2, alias="prod")
    swaps = [
        guest.call("SetAlias", adapter=f"pirate@{1 + turn % 2}", alias="prod", expected_revision=2)
        for turn in range(16)
    ]
    answers = await asyncio.gather(*swaps, return_exceptions=True)
    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert {type(answer) for answer in answers if isinstance(answer, BaseException)} == {RevisionConflict}
    assert [answer.alias.revision for answer in won] == [3]


async def test_an_alias_points_to_what_is_there_and_not_yanked(guest: Guest) -> None:
    await guest.several(2)
    await guest.call("YankVersion", adapter="pirate@2", reason="bad")
    with pytest.raises(VersionYanked):
        await guest.call("SetAlias", adapter="pirate@2", alias="prod")
    with pytest.raises(VersionNotFound):
        await guest.call("SetAlias", adapter="pirate@3", alias="prod")
    with pytest.raises(InvalidName):
        await guest.call("SetAlias", adapter="pirate@1", alias="Not A Name")
    with pytest.raises(AdapterNotFound):
        await guest.call("ListAliases", adapter="nobody")


async def test_an_alias_is_rolled_back(guest: Guest) -> None:
    first, second = await guest.several(2, alias="prod")
    with pytest.raises(RevisionConflict):
        await guest.call("RollbackAlias", adapter="pirate", alias="prod", expected_revision=1)
    back = (await guest.call("RollbackAlias", adapter="pirate", alias="prod", expected_revision=2)).alias
    assert (back.digest, back.number, back.revision) == (first.digest, 1, 3)
    forth = (await guest.call("RollbackAlias", adapter="pirate", alias="prod")).alias
    assert forth.digest == second.digest


async def test_a_rollback_needs_somewhere_to_go(guest: Guest) -> None:
    await guest.several(2, alias="prod")
    await guest.call("SetAlias", adapter="pirate@1", alias="new")
    with pytest.raises(NoEarlierVersion):
        await guest.call("RollbackAlias", adapter="pirate", alias="new")
    with pytest.raises(AliasNotFound):
        await guest.call("RollbackAlias", adapter="pirate", alias="absent")
    with pytest.raises(InvalidName):
        await guest.call("RollbackAlias", adapter="pirate", alias="No")
    await guest.call("YankVersion", adapter="pirate@1", reason="bad")
    with pytest.raises(VersionYanked):
        await guest.call("RollbackAlias", adapter="pirate", alias="prod")
