"""How long the registry's word on a caller is taken, and what is done when there is none."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from compute_worker.runtime import callers as module
from compute_worker.runtime.callers import Callers, Granted
from compute_worker.runtime.rights import Permission
from lorry.errors import RegistryUnavailable, Unauthenticated

READER = Granted({"team": 1})


class Clock:
    """time.monotonic() for the module under test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Words:
    """An Authority that knows some callers, until it is taken down."""

    def __init__(self, **known: Granted) -> None:
        self.known = known
        self.down = False
        self.asked: Counter[str] = Counter()

    async def granted(self, caller: str) -> Granted:
        await asyncio.sleep(0)
        self.asked[caller] += 1
        if self.down:
            raise RegistryUnavailable("gone")
        if caller not in self.known:
            raise Unauthenticated("nobody knows this caller")
        return self.known[caller]


async def test_many_calls_of_one_caller_ask_once(clock: Clock) -> None:
    words = Words(a=READER)
    callers = Callers(words, grace=300)
    rights = await asyncio.gather(*(callers.rights("a") for _ in range(8)))
    assert all(right.may(Permission.READ, "team") and not right.may(Permission.PUSH, "team") for right in rights)
    clock.now += 29
    await callers.rights("a")
    assert words.asked == {"a": 1}


async def test_a_right_that_was_taken_away_is_gone_after_half_a_minute(clock: Clock) -> None:
    words = Words(a=READER)
    callers = Callers(words, grace=300)
    await callers.rights("a")
    del words.known["a"]
    clock.now += 31
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await callers.rights("a")
    words.down = True
    with pytest.raises(RegistryUnavailable):
        await callers.rights("a")


async def test_who_was_vouched_for_is_served_for_the_grace_while_the_registry_is_away(clock: Clock) -> None:
    words = Words(a=READER)
    callers = Callers(words, grace=300)
    await callers.rights("a")
    words.down = True
    clock.now += 300
    assert (await callers.rights("a")).may(Permission.READ, "team")
    with pytest.raises(RegistryUnavailable):
        await callers.rights("b")
    clock.now += 1
    with pytest.raises(RegistryUnavailable):
        await callers.rights("a")


async def test_rights_end_when_they_say_so_whatever_is_remembered() -> None:
    now = datetime.now(UTC)
    words = Words(late=Granted({"*": 1}, expires=now), soon=Granted({"*": 1}, expires=now + timedelta(hours=1)))
    callers = Callers(words, grace=300)
    await callers.rights("soon")
    with pytest.raises(Unauthenticated, match="ended"):
        await callers.rights("late")


async def test_who_shows_nothing_is_not_asked_about() -> None:
    words = Words()
    with pytest.raises(Unauthenticated, match="got neither"):
        await Callers(words, grace=300).rights("")
    assert words.asked == {}


async def test_a_registry_that_lets_everybody_in_vouches_for_nobody() -> None:
    words = Words(a=Granted({"*": 3}, anonymous=True))
    with pytest.raises(Unauthenticated, match="vouches for nobody"):
        await Callers(words, grace=300).rights("a")


async def test_secrets_are_not_kept() -> None:
    callers = Callers(Words(**{"Bearer lorry_secret": READER}), grace=300)
    await callers.rights("Bearer lorry_secret")
    assert "secret" not in repr(vars(callers))
