"""What the registry's benchmarks make, small: the stock of a catalogue is real, and every case gives a value."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from benchmarks import registry
from benchmarks.registry_stock import LONG, NAMESPACE, short, shorts
from benchmarks.registry_tcp import over_tcp
from benchmarks.registry_world import Scale, world
from benchmarks.running import run
from lorry.signatures import manifest_of

TINY = Scale(blob_bytes=3 << 20, uploads=2, few=100, many=200, callers=2, calls=2)
# One of each kind; the others differ in the place or the request.
KINDS = ["upload-files", "read-files", "download-files", "memory-files", "resolve-files", "versions-deep-files"]


async def test_the_stock_is_what_a_registry_would_have_written(tmp_path: Path) -> None:
    async with world(TINY, tmp_path) as around:
        client = (await around.house("files", 200)).client
        held = await client.namespace(NAMESPACE)
        assert (held.used_versions, held.adapter_count) == (201, shorts(200) + 2)
        numbers = [version.number async for version in client.versions(LONG)]
        assert numbers == list(range(100, 0, -1))
        version = await client.resolve(f"{short(1)}@11")
        manifest_of(version)  # raises where the digest is not the manifest's
        (parent,) = version.manifest.parents
        assert (await client.version(f"{short(1)}@10")).digest == parent
        assert [verdict.compatible async for verdict in client.verdicts(short(1))] == [True]
        # A catalogue of this kind can be written to, and taken apart.
        assert (await client.set_alias(f"{short(0)}@1", "prod")).number == 1
        assert len((await client.delete_adapter(LONG)).deleted_versions) == 100


@pytest.mark.long
async def test_every_kind_of_case_gives_values_of_both_sides(tmp_path: Path) -> None:
    known = registry.cases()
    async with world(TINY, tmp_path) as around:
        for name in KINDS:
            result = await run(known[name], around, repeats=1)
            assert result.ours[0] >= 0
            assert result.peer[0] > 0


def test_every_case_is_filed_under_its_own_name_and_chosen_by_it() -> None:
    assert [case.claim.name for case in registry.cases().values()] == list(registry.cases())
    assert registry.parser().parse_args(["--cases", "resolve-s3,read-files"]).cases == ["resolve-s3", "read-files"]
    with pytest.raises(argparse.ArgumentTypeError, match="got Z"):
        registry.names("Z")


def test_all_bytes_come_over_the_connection_from_the_other_process(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(3_000_000))
    assert over_tcp(path) > 0
    assert over_tcp(path, tmp_path / "copy") > 0
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
