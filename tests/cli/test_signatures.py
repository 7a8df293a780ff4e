from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Lorry


@pytest.fixture
def key(lorry: Lorry, tmp_path: Path) -> str:
    """The private half; the public one lies beside it."""
    path = tmp_path / "release.pem"
    assert lorry("key", "new", str(path)).code == 0
    return str(path)


def public(key: str) -> str:
    return key.replace(".pem", ".pub.pem")


def test_a_key_pair_is_two_files_and_the_private_one_is_private(lorry: Lorry, tmp_path: Path) -> None:
    made = lorry("key", "new", str(tmp_path / "release.pem"), "--json").json
    assert Path(made["private"]).stat().st_mode & 0o777 == 0o600
    assert lorry("key", "id", made["public"]).out.strip() == made["id"]
    assert lorry("key", "id", made["public"], "--json").json == {"id": made["id"]}


def test_a_key_is_never_overwritten(lorry: Lorry, key: str) -> None:
    before = Path(key).read_bytes()
    again = lorry("key", "new", key)
    assert (again.code, Path(key).read_bytes()) == (4, before)


def test_a_push_is_signed_and_verified(lorry: Lorry, folder: str, key: str) -> None:
    assert lorry("push", folder, "signed/pirate", "--sign", key).code == 0
    key_id = lorry("key", "id", public(key)).out.strip()
    assert f"signed by {key_id}" in lorry("verify", "signed/pirate", "--key", public(key)).out
    assert lorry("verify", "signed/pirate", "--key", public(key), "--json").json["signed_by"] == [key_id]
    assert f"signed by  {key_id}" in lorry("show", "signed/pirate").out


def test_a_signed_version_is_shown_in_json_with_its_envelopes(lorry: Lorry, folder: str, key: str) -> None:
    pushed = lorry("push", folder, "enveloped/pirate", "--sign", key, "--json")
    assert pushed.code == 0, pushed.err
    shown = lorry("show", "enveloped/pirate", "--json").json["version"]
    (envelope,) = map(json.loads, shown["signatures"])
    assert envelope["signatures"][0]["keyid"] == lorry("key", "id", public(key)).out.strip()
    assert lorry("resolve", "enveloped/pirate", "--json").json["signatures"] == pushed.json["signatures"]


def test_what_is_published_is_signed_later(lorry: Lorry, folder: str, key: str) -> None:
    lorry("push", folder, "later/pirate")
    refused = lorry("verify", "later/pirate", "--key", public(key))
    assert (refused.code, refused.err.startswith("error: SIGNATURE_REQUIRED: ")) == (6, True)
    assert lorry("sign", "later/pirate", "--key", key).code == 0
    assert lorry("verify", "later/pirate", "--key", public(key)).code == 0


def test_a_locked_key_asks_for_its_passphrase(
    lorry: Lorry, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "locked.pem")
    monkeypatch.setenv("LORRY_SIGNING_PASSPHRASE", "open sesame")
    assert lorry("key", "new", path, "--lock").code == 0
    assert lorry("push", folder, "locked/pirate", "--sign", path).code == 0
    monkeypatch.setenv("LORRY_SIGNING_PASSPHRASE", "open barley")
    assert lorry("sign", "locked/pirate", "--key", path).code == 2
    monkeypatch.delenv("LORRY_SIGNING_PASSPHRASE")
    asked = lorry("sign", "locked/pirate", "--key", path)
    assert (asked.code, "LORRY_SIGNING_PASSPHRASE" in asked.err) == (2, True)


def test_what_is_no_key_is_refused(lorry: Lorry, folder: str, key: str) -> None:
    assert lorry("push", folder, "nokey/pirate", "--sign", public(key)).code == 2
    assert lorry("key", "id", key).code == 2
