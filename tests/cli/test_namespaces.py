from __future__ import annotations

from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lorry.cli.namespaces import parse_bytes
from tests.cli.conftest import Lorry


def test_a_namespace_is_changed_shown_and_listed(lorry: Lorry) -> None:
    changed = lorry("namespace", "set", "team-a", "--max-bytes", "10GiB", "--max-versions", "5", "--json")
    assert (changed.code, changed.json["max_bytes"], changed.json["max_versions"]) == (0, 10 << 30, 5)
    shown = lorry("namespace", "show", "team-a")
    assert "10.0 GiB" in shown.out
    assert lorry("namespace", "show", "team-a", "--json").json == changed.json
    assert changed.json in lorry("namespace", "ls", "--json").json
    assert "team-a" in lorry("namespace", "ls").out


def test_keys_are_read_from_files_and_taken_away_on_purpose(lorry: Lorry, tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    changed = lorry("namespace", "set", "team-b", "--trusted-key", str(tmp_path / "key.pem"), "--json")
    assert changed.json["trusted_keys"] == [pem.decode()]
    assert lorry("namespace", "set", "team-b", "--no-trusted-keys", "--json").json["trusted_keys"] == []
    (tmp_path / "key.pem").write_bytes(b"\xff no key")
    assert lorry("namespace", "set", "team-b", "--trusted-key", str(tmp_path / "key.pem")).code != 0


def test_a_change_may_expect_a_revision(lorry: Lorry) -> None:
    assert lorry("namespace", "set", "team-c", "--max-bytes", "1").code == 0
    assert lorry("namespace", "set", "team-c", "--max-bytes", "2", "--expect", "1").code == 0
    refused = lorry("namespace", "set", "team-c", "--max-bytes", "3", "--expect", "1")
    assert refused.code != 0
    assert "REVISION_CONFLICT" in refused.err


@pytest.mark.parametrize("arguments", [[], ["--max-bytes", "much"], ["--no-trusted-keys", "--trusted-key", __file__]])
def test_a_change_that_says_nothing_clear_is_refused(lorry: Lorry, arguments: list[str]) -> None:
    assert lorry("namespace", "set", "team-d", *arguments).code == 2


def test_bytes_are_written_as_people_write_them() -> None:
    assert [parse_bytes(text) for text in ("0", "1000", "1KiB", "3MiB", "10GiB", "2TiB")] == [
        0,
        1000,
        1 << 10,
        3 << 20,
        10 << 30,
        2 << 40,
    ]
    for wrong in ("", "GiB", "-1", "1.5GiB", "1GB", "1 GiB", "9999999TiB"):
        with pytest.raises(typer.BadParameter):
            parse_bytes(wrong)
