"""Watch: every event, in order, from anywhere, of one's own namespace."""

from __future__ import annotations

import pytest

from lorry.errors import InvalidName, InvalidResumeToken
from lorry.v1 import catalog_pb2
from tests.conformance.guest import Guest

FIRST = "0"


async def story(guest: Guest) -> list[str]:
    """What leaves one event of each kind, but for deletions; their names in order."""
    await guest.several(2)
    await guest.call("SetAlias", adapter="pirate@2", alias="prod")
    await guest.call("DeleteAlias", adapter="pirate", alias="prod")
    await guest.call("YankVersion", adapter="pirate@2", reason="swears")
    return ["version_created", "version_created", "alias_moved", "alias_deleted", "version_yanked"]


def kinds(events: list[catalog_pb2.WatchResponse]) -> list[str]:
    return [event.WhichOneof("event") for event in events]


async def test_every_kind_of_event_is_told_in_order_from_the_first_on(guest: Guest) -> None:
    expected = await story(guest)
    async with guest.watching(resume_token=FIRST) as take:
        events = await take(len(expected))
    assert kinds(events) == expected
    assert events[4].version_yanked.reason == "swears"
    assert (events[2].alias_moved.alias, events[2].alias_moved.revision) == ("prod", 1)
    assert (events[0].namespace, events[0].name) == (guest.namespace, "pirate")
    assert [event.version_created.number for event in events[:2]] == [1, 2]
    assert all(event.HasField("commit_time") for event in events)


async def test_a_deletion_is_told(operator: Guest) -> None:
    version = await operator.publish("pirate")
    async with operator.watching() as take:
        await operator.call("DeleteVersion", adapter="pirate@1")
        (event,) = await take(1)
    assert event.version_deleted.digest == version.digest


async def test_a_watch_goes_on_behind_any_event(guest: Guest) -> None:
    expected = await story(guest)
    async with guest.watching(resume_token=FIRST) as take:
        events = await take(len(expected))
    for index, event in enumerate(events[:-1]):
        async with guest.watching(resume_token=event.resume_token) as take:
            assert await take(1) == [events[index + 1]]


async def test_whoever_has_the_headers_misses_nothing_that_happens_later(guest: Guest) -> None:
    await story(guest)
    async with guest.watching() as take:
        await guest.publish("later", 10)
        (event,) = await take(1)
    assert (event.name, kinds([event])) == ("later", ["version_created"])


async def test_a_namespace_has_its_own_events_alone(guest: Guest, other: Guest) -> None:
    async with other.watching() as take:
        await guest.publish("pirate")
        await other.publish("json")
        await guest.publish("pirate", 1)
        await other.publish("json", 1)
        events = await take(2)
    assert [(event.namespace, event.version_created.number) for event in events] == [
        (other.namespace, 1),
        (other.namespace, 2),
    ]


@pytest.mark.parametrize("token", ["100000000000000000", "-1", "abc", "01", "1.0", "9" * 30, "٣"])
async def test_a_token_that_was_not_given_out_is_refused(guest: Guest, token: str) -> None:
    with pytest.raises(InvalidResumeToken):
        await guest.stream("Watch", resume_token=token)


async def test_a_namespace_that_is_no_name_is_refused(guest: Guest) -> None:
    with pytest.raises(InvalidName):
        await guest.stream("Watch", namespace="A B")
