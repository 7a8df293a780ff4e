"""`lorry gc` and `lorry fsck` as an operator runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Lorry


@pytest.fixture
def pushed(lorry: Lorry, folder: str) -> str:
    """Digest of a version's weights, which are in no other."""
    version = lorry("push", folder, "upkeep/cat", "--json").json
    digest: str = version["manifest"]["files"][-1]["digest"]
    return digest


def test_gc_tells_what_would_go_and_what_went(lorry: Lorry, pushed: str) -> None:
    lorry("rm", "upkeep/cat@1")
    would, done = lorry("gc", "--dry-run", "--grace", "0s", "--json"), lorry("gc", "--grace", "0s")
    assert (would.code, done.code, would.json["swept_blobs"]) == (0, 0, 2)
    assert "swept blobs       2" in done.out
    assert lorry("gc", "--json").json["swept_blobs"] == 0
    assert pushed.startswith("sha256:")


def test_gc_refuses_a_grace_that_is_no_span(lorry: Lorry) -> None:
    assert lorry("gc", "--grace", "soon").code == 2


def test_fsck_ends_with_8_where_something_is_damaged_and_names_it(lorry: Lorry, pushed: str, data: Path) -> None:
    sound = lorry("fsck", "--json")
    assert (sound.code, sound.json["progress"]["done"]) == (0, True)
    (path,) = data.glob(f"blobs/*/*/{pushed.removeprefix('sha256:')}")
    path.write_bytes(b"damaged")
    found = lorry("fsck")
    assert found.code == 8
    assert found.out.startswith(f"corrupt {pushed}  upkeep/cat@")
    assert found.out.splitlines()[-1].startswith("checked 2 blobs")
    assert found.out.splitlines()[-1].endswith("1 findings")
