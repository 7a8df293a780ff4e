from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Lorry
from tests.support.blocking import blocking
from tests.support.certificates import Authority
from tests.support.registry import running_registry
from tests.support.tenants import OPERATOR, OURS, THEIRS, World, guarded_registry


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("guarded")
    with blocking(guarded_registry(folder / "registry", Authority(folder))) as world:
        yield world


@pytest.fixture(scope="module")
def address(world: World) -> str:
    return world.target


@pytest.fixture
def operator(lorry: Lorry, world: World, monkeypatch: pytest.MonkeyPatch) -> Lorry:
    """The command in the environment of an administrator."""
    monkeypatch.setenv("LORRY_CA", str(world.root))
    monkeypatch.setenv("LORRY_TOKEN", world.tokens[OPERATOR])
    return lorry


def test_a_new_token_is_all_that_stdout_holds_and_works(operator: Lorry, tmp_path: Path) -> None:
    made = operator("token", "create", "ann", "--scope", "team=push", "--scope", "*=read", "--expires", "90d")
    assert (made.code, made.out.startswith("lorry_"), made.out.count("\n")) == (0, True, 1)
    assert "ann: *=read team=push" in made.err
    file = tmp_path / "ann"
    file.write_text(made.out)
    assert operator("--token-file", str(file), "whoami").out.splitlines()[:2] == [
        "name    ann",
        "scopes  *=read team=push",
    ]
    listed = operator("token", "ls").out
    assert ("ann" in listed, "expired" in listed, "revoked 2" in listed) == (True, True, True)
    assert operator("token", "revoke", "ann").out == "revoked ann\n"
    assert operator("token", "revoke", "ann", "--json").json["revoke_time"]
    again = operator("token", "create", "ann", "--scope", "team=read")
    assert (again.code, "PRINCIPAL_CONFLICT" in again.err) == (4, True)


def test_a_certificate_gets_scopes_without_a_token(operator: Lorry) -> None:
    granted = operator("token", "create", "gpu-7", "--certificate", "gpu-7.example", "--scope", "*=read", "--delegate")
    assert granted.out == "gpu-7  *=read\n"
    shown = next(line for line in operator("token", "ls").out.splitlines() if line.startswith("gpu-7"))
    assert "certificate gpu-7.example, delegate" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scope", "team"), "expected NAMESPACE=PERMISSION with one of read, push, admin"),
        (("--scope", "team=write"), "expected NAMESPACE=PERMISSION with one of read, push, admin"),
        (("--scope", "team=read", "--expires", "soon"), "expected a span of time such as 90d"),
        (("--scope", "team=read", "--expires", "0d"), "expected a moment to come"),
    ],
)
def test_a_token_that_cannot_be_is_refused_in_words(operator: Lorry, arguments: tuple[str, ...], said: str) -> None:
    refused = operator("token", "create", "bob", *arguments)
    assert (refused.code, said in refused.err, refused.out) == (2, True, "")


def test_the_audit_log_is_read_through_its_filters(operator: Lorry) -> None:
    operator("token", "create", "carl", "--scope", "team=read")
    table = operator("audit", "--principal", OPERATOR, "--action", "CreatePrincipal").out
    assert ("carl" in table, "team=read" in table) == (True, True)
    entries = operator("audit", "--since", "1h", "--json").json
    assert (entries[0]["name"], entries[0]["principal"]) == ("carl", OPERATOR)
    assert operator("audit", "--until", "2026-01-01", "--since", "2025-12-31T10:00:00+02:00", "--json").json == []
    wrong = operator("audit", "--since", "yesterday")
    assert (wrong.code, "such as 7d" in wrong.err) == (2, True)


def test_whoever_is_not_known_or_not_allowed_leaves_with_9(
    operator: Lorry, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORRY_TOKEN", world.tokens[THEIRS])
    denied = operator("ls", "--namespace", OURS)
    assert (denied.code, denied.err.startswith("error: PERMISSION_DENIED: ")) == (9, True)
    monkeypatch.delenv("LORRY_TOKEN")
    unknown = operator("ls")
    assert (unknown.code, unknown.err.startswith("error: UNAUTHENTICATED: ")) == (9, True)


def test_a_file_goes_before_the_environment_and_half_a_certificate_is_refused(
    operator: Lorry, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{world.tokens[OPERATOR]}\n")
    monkeypatch.setenv("LORRY_TOKEN", world.tokens[THEIRS])
    assert operator("--token-file", str(file), "whoami", "--json").json["name"] == OPERATOR
    half = operator("--cert", str(world.root), "whoami")
    assert (half.code, "--cert and --key together" in half.err) == (2, True)


def test_a_registry_without_access_control_says_so(
    lorry: Lorry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blocking(running_registry(tmp_path)) as target:
        monkeypatch.setenv("LORRY_REGISTRY", target)
        assert lorry("whoami").out.splitlines() == ["name    anonymous", "scopes  *=admin", "kind    anonymous"]
