"""Collections of garbage and checks of everything, over a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lorry.errors import AlreadyRunning, InvalidInput
from lorry.registry import RegistryClient
from lorry.v1 import admin_pb2
from lorry.v1.types_pb2 import Version
from tests.support.adapters import BASE_NAME, base_for, write_adapter
from tests.support.registry import running_registry, until

AT_ONCE = timedelta()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with running_registry(tmp_path / "registry") as target, RegistryClient(target) as client:
        await client.register_base_model(BASE_NAME, base_for())
        yield client


def damage(folder: Path, digest: str) -> None:
    (path,) = folder.glob(f"blobs/*/*/{digest.removeprefix('sha256:')}")
    path.write_bytes(b"damaged")


async def test_garbage_is_collected_with_figures_and_an_audit_entry(client: RegistryClient, tmp_path: Path) -> None:
    version = await client.push(write_adapter(tmp_path / "a"), "cat", base=BASE_NAME)
    await client.push(write_adapter(tmp_path / "b", seed=2), "cat", base=BASE_NAME)
    await client.update_adapter("cat", keep_last=1)
    would = await client.collect_garbage(dry_run=True, grace=AT_ONCE)
    assert (list(would.expired_versions), would.expired_version_count) == (["default/cat@1"], 1)
    assert await client.collect_garbage(grace=AT_ONCE) == would
    swept = await client.collect_garbage(grace=AT_ONCE)
    assert (swept.swept_blobs, swept.kept_blobs) == (1, 2)
    (weights,) = [file for file in version.manifest.files if file.name.endswith("safetensors")]
    (entry,) = [entry async for entry in client.audit_entries(digest=weights.digest, action="CollectGarbage")]
    assert (entry.digest, entry.detail) == (weights.digest, "no version named it")


async def test_the_registrys_own_grace_is_used_where_none_is_named(client: RegistryClient, tmp_path: Path) -> None:
    await client.push(write_adapter(tmp_path / "a"), "cat", base=BASE_NAME)
    await client.delete_version("cat@1")
    assert (await client.collect_garbage()).swept_blobs == 0
    assert (await client.collect_garbage(grace=AT_ONCE)).swept_blobs == 2


async def test_a_grace_below_zero_is_refused(client: RegistryClient) -> None:
    with pytest.raises(InvalidInput, match="grace"):
        await client.collect_garbage(grace=timedelta(seconds=-1))


async def test_a_check_tells_what_is_damaged_and_that_it_is_done(client: RegistryClient, tmp_path: Path) -> None:
    version = await client.push(write_adapter(tmp_path / "a"), "cat", base=BASE_NAME)
    weights = version.manifest.files[-1].digest
    damage(tmp_path / "registry", weights)
    reports = [report async for report in client.fsck()]
    (finding,) = [report.finding for report in reports if report.HasField("finding")]
    assert (finding.problem, finding.digest, list(finding.versions)) == (
        admin_pb2.FSCK_PROBLEM_CORRUPT,
        weights,
        ["default/cat@1"],
    )
    assert (reports[-1].progress.done, reports[-1].progress.total_blobs) == (True, 2)


async def test_a_check_that_its_caller_left_lets_the_next_one_in(client: RegistryClient, tmp_path: Path) -> None:
    await client.push(write_adapter(tmp_path / "a"), "cat", base=BASE_NAME)
    async for _ in client.fsck():
        break

    async def checked() -> bool:
        try:
            return [report async for report in client.fsck()][-1].progress.done
        except AlreadyRunning:
            return False

    await until(checked)


async def test_garbage_is_collected_by_the_clock(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as target, RegistryClient(target) as client:
        await client.register_base_model(BASE_NAME, base_for())
        await client.push(write_adapter(tmp_path / "a"), "cat", base=BASE_NAME)
        await client.delete_version("cat@1")
    # A grace of 0 is for tests: a push that is under way would have to begin again.
    often = {"gc_seconds": 0.02, "keep_seconds": 0}
    async with running_registry(tmp_path, **often) as target, RegistryClient(target) as client:

        async def swept() -> bool:
            entries = [entry async for entry in client.audit_entries(action="CollectGarbage")]
            return [entry.principal for entry in entries] == ["registry"] * 2

        await until(swept)


class SweptMeanwhile(RegistryClient):
    """Garbage is collected between the bytes and the name of its first version."""

    swept = False

    async def create_version(self, *args: Any, **kwargs: Any) -> Version:
        if not self.swept:
            self.swept = True
            assert (await self.collect_garbage(grace=AT_ONCE)).swept_blobs > 0
        return await super().create_version(*args, **kwargs)


async def test_a_push_whose_bytes_were_swept_before_they_had_a_name_sends_them_again(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "registry") as target, SweptMeanwhile(target) as client:
        await client.register_base_model(BASE_NAME, base_for())
        version = await client.push(write_adapter(tmp_path / "a"), "cat", base=BASE_NAME)
        assert (await client.resolve("cat")).digest == version.digest
        await client.pull("cat", tmp_path / "pulled")
