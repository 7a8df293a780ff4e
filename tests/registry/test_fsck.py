"""Checks of everything on both kinds of storage: what is found, what is healed, and what is let alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from adapter_registry.domain.garbage import CheckProgress, Finding, Problem
from adapter_registry.service.fsck import Report
from lorry.errors import AlreadyRunning, CorruptBlob
from tests.suites.catalog_values import a_manifest, a_version
from tests.support.blobs import blob, put
from tests.support.upkeep import AT_ONCE, Parts, Place, Waiting, parts_at

DATA = blob(100_000)


@pytest.fixture
def parts(place: Place) -> Iterator[Parts]:
    with parts_at(place) as parts:
        yield parts


async def check(parts: Parts) -> list[Report]:
    return [report async for report in parts.checker().check()]


async def findings(parts: Parts) -> list[Finding]:
    return [report for report in await check(parts) if isinstance(report, Finding)]


async def test_a_sound_registry_has_no_findings_and_all_of_it_was_read(parts: Parts) -> None:
    await parts.publish("cat", DATA)
    await parts.send(b"sent and not named")
    assert await check(parts) == [CheckProgress(2, len(DATA) + 18, 2, done=True)]


async def test_a_damaged_blob_is_found_put_aside_and_healed_by_sending_it_again(parts: Parts) -> None:
    digest = await parts.publish("cat", DATA)
    await parts.publish("dog", DATA)
    parts.place.spoil(digest)
    (finding,) = await findings(parts)
    assert (finding.problem, finding.digest) == (Problem.CORRUPT, digest)
    assert finding.versions == ("default/cat@1", "default/dog@1")
    with pytest.raises(CorruptBlob):
        await parts.read(digest)
    assert [found.problem for found in await findings(parts)] == [Problem.QUARANTINED]
    assert await parts.send(DATA) == digest
    assert (await findings(parts), await parts.read(digest)) == ([], DATA)


async def test_damage_of_what_no_row_knows_is_found_too(parts: Parts) -> None:
    stray = put(parts.store, DATA)
    parts.place.spoil(stray)
    assert [(found.problem, found.digest) for found in await findings(parts)] == [(Problem.CORRUPT, stray)]
    assert await findings(parts) == []


async def test_a_version_whose_blob_is_gone_is_found_until_it_is_sent_again(parts: Parts) -> None:
    digest = await parts.publish("cat", DATA)
    unnamed = await parts.send(b"nobody misses this")
    for lost in (digest, unnamed):
        parts.store.delete(lost)
    for _ in range(2):
        (finding,) = await findings(parts)
        assert (finding.problem, finding.digest, finding.versions) == (Problem.MISSING, digest, ("default/cat@1",))
    await parts.send(DATA)
    assert await findings(parts) == []


async def test_a_manifest_that_was_altered_is_found(parts: Parts) -> None:
    data = repr(1).encode()
    await parts.send(data)
    version, _ = parts.catalog.create_version(a_version("cat", 1, size=len(data)))
    with parts.catalog._database.write() as session:
        altered = a_manifest(2).canonical_json().decode()
        session.execute(text("UPDATE versions SET manifest = :altered"), {"altered": altered})
    (finding,) = await findings(parts)
    assert (finding.problem, finding.digest, finding.versions) == (
        Problem.MANIFEST,
        version.digest,
        ("default/cat@1",),
    )


async def test_what_is_swept_while_it_is_checked_is_no_finding(parts: Parts) -> None:
    await parts.publish("cat", DATA)
    await parts.send(b"swept meanwhile")
    store = Waiting(parts.store, "missing")
    checking = asyncio.create_task(collected(parts, store))
    await asyncio.to_thread(store.reached.wait)
    assert (await parts.collector().collect(grace=AT_ONCE)).swept_blobs == 1
    store.go_on.set()
    assert [report for report in await checking if isinstance(report, Finding)] == []


async def test_reading_and_sending_go_on_during_a_check_and_a_second_one_is_refused(parts: Parts, place: Place) -> None:
    digest = await parts.publish("cat", DATA)
    store = Waiting(parts.store, "open")
    checking = asyncio.create_task(collected(parts, store))
    await asyncio.to_thread(store.reached.wait)
    assert await parts.read(digest) == DATA
    await parts.publish("dog", b"published meanwhile")
    with parts_at(place) as other, pytest.raises(AlreadyRunning):
        await findings(other)
    store.go_on.set()
    last = (await checking)[-1]
    assert isinstance(last, CheckProgress)
    assert last.done


async def collected(parts: Parts, store: Waiting) -> list[Report]:
    return [report async for report in parts.checker(store).check()]
