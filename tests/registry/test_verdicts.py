"""Families and verdicts over a real socket: asked, stored behind the scenes, and after a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from lorry.errors import (
    BaseNotFound,
    BlobNotFound,
    InvalidDigest,
    InvalidFieldMask,
    InvalidInput,
    LorryError,
    VersionNotFound,
)
from lorry.rpc.convert import base_to_pb
from lorry.v1 import catalog_pb2, types_pb2
from tests.support.adapters import BASE_NAME, MODULES, adapter_bytes, base_for
from tests.support.registry import DEADLINE, Client, running_registry, until

BASE = base_for()
VARIANT = base_for(seed=1)
NARROW = base_for({name: (4, out, rank) for name, (_, out, rank) in MODULES.items()}, seed=2)
ALLOW, WARN, REFUSE = types_pb2.CARRY_OVER_ALLOW, types_pb2.CARRY_OVER_WARN, types_pb2.CARRY_OVER_REFUSE


async def register(client: Client, facts: Any, name: str, **family: Any) -> types_pb2.BaseModel:
    message = base_to_pb(facts, name)
    message.MergeFrom(types_pb2.BaseModel(**family))
    return (await client.call("RegisterBaseModel", base_model=message)).base_model


async def update(client: Client, name: str, *paths: str, **family: Any) -> types_pb2.BaseModel:
    base = types_pb2.BaseModel(name=name, **family)
    return (await client.call("UpdateBaseModel", base_model=base, update_mask={"paths": paths})).base_model


async def verdicts(client: Client, adapter: str) -> dict[str, tuple[bool, list[str]]]:
    found: dict[str, tuple[bool, list[str]]] = {}
    token = ""
    while True:
        answer = await client.call("ListVerdicts", adapter=adapter, page_size=1, page_token=token)
        found |= {v.base_model: (v.compatible, [finding.code for finding in v.findings]) for v in answer.verdicts}
        token = answer.next_page_token
        if not token:
            return found


async def fitting(client: Client, base: str) -> list[str]:
    """By the filter, which reads what is stored."""
    return [a.name for a in (await client.call("ListAdapters", filter=f"fits={base}")).adapters]


def fits(client: Client, base: str, *names: str) -> Callable[[], Awaitable[bool]]:
    async def met() -> bool:
        return await fitting(client, base) == [*names]

    return met


async def test_a_base_that_is_added_late_is_answered_at_once_and_stored_soon(client: Client) -> None:
    await client.register()
    await client.publish("pirate")
    await register(client, VARIANT, "variant", derived_from=BASE.base_id, carry_over=WARN)
    await register(client, NARROW, "narrow")
    known = await verdicts(client, "pirate")
    shapes = ["BASE_MISMATCH", *["SHAPE_MISMATCH"] * len(MODULES)]
    assert known == {BASE_NAME: (True, []), "narrow": (False, shapes), "variant": (True, ["BASE_VARIANT"])}

    await until(fits(client, "variant", "pirate"))
    assert await fitting(client, "narrow") == []


async def test_verdicts_follow_a_change_of_the_family(client: Client) -> None:
    await client.register()
    await register(client, VARIANT, "variant")
    await client.publish("pirate")
    assert (await verdicts(client, "pirate"))["variant"] == (False, ["BASE_MISMATCH"])
    changed = await update(client, "variant", "derived_from", "carry_over", derived_from=BASE.base_id, carry_over=ALLOW)
    assert (changed.derived_from, changed.carry_over, len(changed.modules)) == (BASE.base_id, ALLOW, 0)
    assert (await verdicts(client, "pirate"))["variant"] == (True, [])

    await until(fits(client, "variant", "pirate"))
    await update(client, "variant", "carry_over", carry_over=REFUSE)
    assert (await verdicts(client, "pirate"))["variant"] == (False, ["BASE_MISMATCH"])
    read = (await client.call("GetBaseModel", base_model="variant")).base_model
    assert (read.derived_from, read.carry_over) == (BASE.base_id, REFUSE)


async def test_the_manifests_base_counts_once_a_version_is_published(client: Client) -> None:
    await client.register()
    await register(client, VARIANT, "variant", derived_from=BASE.base_id, carry_over=WARN)
    version = await client.publish("pirate", adapter_bytes(base_name="somebody/elses"), base_model=BASE_NAME)
    assert [warning.split(":")[0] for warning in version.warnings] == ["BASE_UNVERIFIED"]
    assert await verdicts(client, "pirate") == {BASE_NAME: (True, []), "variant": (True, ["BASE_VARIANT"])}
    answer = await client.call("CheckCompatibility", adapter="pirate", base_model="variant")
    assert [finding.code for finding in answer.findings] == ["BASE_VARIANT"]


async def test_an_adapter_of_the_parent_is_published_for_a_variant_that_lets_it(client: Client) -> None:
    await client.register()
    await register(client, VARIANT, "variant", derived_from=BASE.base_id, carry_over=WARN)
    version = await client.publish("pirate", base_model="variant")
    assert version.manifest.base_id == VARIANT.base_id
    assert [warning.split(":")[0] for warning in version.warnings] == ["BASE_VARIANT"]
    assert (await verdicts(client, "pirate"))[BASE_NAME] == (False, ["BASE_MISMATCH"])


async def test_a_yanked_version_still_has_its_verdicts(client: Client) -> None:
    await client.register()
    version = await client.publish("pirate")
    await client.call("YankVersion", adapter="pirate@1", reason="swears")
    assert await verdicts(client, f"pirate@{version.digest}") == {BASE_NAME: (True, [])}
    with pytest.raises(VersionNotFound):
        await client.call("ListVerdicts", adapter="pirate@2")


@pytest.mark.parametrize(
    ("name", "paths", "family", "error"),
    [
        ("nobody", ["carry_over"], {}, BaseNotFound),
        ("", ["carry_over"], {}, InvalidInput),
        ("variant", [], {}, InvalidFieldMask),
        ("variant", ["carry_over", "name"], {}, InvalidFieldMask),
        ("variant", ["derived_from"], {"derived_from": BASE_NAME}, InvalidDigest),
        ("variant", ["derived_from"], {"derived_from": VARIANT.base_id}, InvalidInput),
        (BASE_NAME, ["derived_from"], {"derived_from": VARIANT.base_id}, InvalidInput),
        ("variant", ["carry_over"], {"carry_over": 9}, InvalidInput),
    ],
)
async def test_a_family_that_cannot_be_is_refused(
    client: Client, name: str, paths: list[str], family: dict[str, Any], error: type[LorryError]
) -> None:
    await client.register()
    await register(client, VARIANT, "variant", derived_from=BASE.base_id)
    with pytest.raises(error) as caught:
        await update(client, name, *paths, **family)
    assert type(caught.value) is error


async def test_a_change_of_the_family_is_an_event(client: Client) -> None:
    await register(client, VARIANT, "variant")
    await update(client, "variant", "carry_over", carry_over=WARN)
    stream = client.catalog.Watch(catalog_pb2.WatchRequest(resume_token="0"), timeout=DEADLINE)  # noqa: S106
    events = [await stream.read() for _ in range(2)]
    stream.cancel()
    assert [event.WhichOneof("event") for event in events] == ["base_registered", "base_updated"]
    assert events[1].base_updated.base_id == VARIANT.base_id


async def test_versions_of_an_earlier_release_are_judged_from_their_bytes(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as target, Client(target) as client:
        await client.register()
        await client.publish("pirate")
        lost = await client.publish("lost", adapter_bytes(seed=1))
    forget(tmp_path, versions=2)
    lose(tmp_path, lost.manifest.files[1].digest)
    async with running_registry(tmp_path) as target, Client(target) as client:
        await until(fits(client, BASE_NAME, "pirate"))
        assert await verdicts(client, "pirate") == {BASE_NAME: (True, [])}
        with pytest.raises(BlobNotFound):
            await verdicts(client, "lost")


async def test_two_replicas_on_one_database_judge_alike(tmp_path: Path) -> None:
    names = [f"cat-{number}" for number in range(5)]
    async with (
        running_registry(tmp_path) as one,
        running_registry(tmp_path) as other,
        Client(one) as first,
        Client(other) as second,
    ):
        await first.register()
        for seed, name in enumerate(names):
            await first.publish(name, adapter_bytes(seed=seed))
        await register(first, VARIANT, "variant")
        await update(second, "variant", "derived_from", "carry_over", derived_from=BASE.base_id, carry_over=ALLOW)
        for client in (first, second):
            await until(fits(client, "variant", *names))
            assert await verdicts(client, "cat-0") == {BASE_NAME: (True, []), "variant": (True, [])}


def forget(folder: Path, versions: int) -> None:
    """Make of a database one that an earlier release wrote."""
    engine = create_engine(f"sqlite:///{folder / 'catalog.db'}")
    with engine.begin() as connection:
        for table in ("version_facts", "verdicts"):
            assert connection.execute(text(f"DELETE FROM {table}")).rowcount == versions  # noqa: S608
    engine.dispose()


def lose(folder: Path, digest: str) -> None:
    """Delete a blob's file."""
    (file,) = folder.rglob(f"*{digest.removeprefix('sha256:')}*")
    file.unlink()
