"""What is read of a bundle before it is published, and whose turn it is."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from adapter_registry.domain.acting import ALL_RIGHTS, Actor, acting
from adapter_registry.domain.records import BaseRecord
from adapter_registry.service import publish
from adapter_registry.service.publish import Publisher, Submission
from lorry.errors import BaseNotFound, InvalidAdapter
from lorry.format.manifest import ManifestFile
from tests.suites.catalog_values import adapter
from tests.support.adapters import BASE_NAME, CONFIG, WEIGHTS, adapter_bytes, base_for
from tests.support.registry import until
from tests.support.upkeep import Parts, Place, parts_at


@pytest.fixture
def parts(place: Place) -> Iterator[Parts]:
    with parts_at(place) as parts:
        parts.catalog.add_base(BaseRecord(BASE_NAME, base_for()))
        yield parts


class Reading:
    """`inspect`, counted; it waits for the gate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun: Counter[str] = Counter()
        self._inspect = publish.inspect
        monkeypatch.setattr(publish, "inspect", self)

    def __call__(self, store: Any, files: Sequence[ManifestFile]) -> None:
        self.begun[files[-1].digest] += 1
        self.gate.wait(60)
        self._inspect(store, files)


async def bundle(parts: Parts, seed: int = 0) -> tuple[ManifestFile, ...]:
    contents = dict(zip((CONFIG, WEIGHTS), adapter_bytes(seed=seed), strict=True))
    return tuple([ManifestFile(name, await parts.send(data), len(data)) for name, data in contents.items()])


def publisher(parts: Parts) -> Publisher:
    return Publisher(parts.catalog, parts.blobs(), parts.pools)


async def test_what_is_published_already_is_not_read_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, files = Reading(monkeypatch), await bundle(parts)
    ours = publisher(parts)
    for expected in (True, False):
        assert (await ours.publish(Submission(adapter("cat"), files, alias="prod")))[1] is expected
    assert sum(reading.begun.values()) == 1
    await ours.publish(Submission(adapter("dog"), files))
    assert sum(reading.begun.values()) == 2


async def test_what_is_refused_for_its_facts_is_not_read_at_all(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, files = Reading(monkeypatch), await bundle(parts)
    with pytest.raises(BaseNotFound):
        await publisher(parts).publish(Submission(adapter("cat"), files, base="unheard-of"))
    with pytest.raises(InvalidAdapter, match="expected a manifest of digest"):
        await publisher(parts).publish(Submission(adapter("cat"), files, expected_digest=files[0].digest))
    with pytest.raises(InvalidAdapter, match="got a claim of 1"):
        await publisher(parts).publish(Submission(adapter("cat"), (replace(files[0], size=1), files[1])))
    assert not reading.begun


async def test_one_principal_reads_one_bundle_at_a_time_and_keeps_nobody_waiting(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = [await bundle(parts, seed) for seed in range(6)]
    reading, ours = Reading(monkeypatch), publisher(parts)
    reading.gate.clear()

    def publishing(who: str, number: int) -> asyncio.Task[object]:
        with acting(Actor(who, ALL_RIGHTS)):
            return asyncio.create_task(ours.publish(Submission(adapter(f"{who}-{number}"), bundles[number])))

    greedy = [publishing("greedy", number) for number in range(5)]
    late = publishing("late", 5)

    async def both_read() -> bool:
        return sum(reading.begun.values()) == 2

    await until(both_read)
    assert reading.begun[bundles[5][-1].digest] == 1
    reading.gate.set()
    await asyncio.gather(*greedy, late)
