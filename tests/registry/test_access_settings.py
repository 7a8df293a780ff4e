"""Access control and TLS from the outside: settings, the first token, a process that serves with both."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adapter_registry.__main__ import main
from adapter_registry.settings import Settings
from lorry import sync
from lorry.errors import Unauthenticated
from tests.support.certificates import Authority
from tests.support.registry import registry_process

Run = Callable[..., tuple[int, str, str]]
OPEN = "0.0.0.0:7471"
PAIR = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with these settings alone; the exit code and both outputs."""

    def run_command(*arguments: str, **settings: str) -> tuple[int, str, str]:
        for name in os.environ:
            if name.startswith("LORRY_REGISTRY_"):
                monkeypatch.delenv(name)
        for name, value in settings.items():
            monkeypatch.setenv(f"LORRY_REGISTRY_{name}", value)
        return main(arguments), *capsys.readouterr()

    return run_command


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": OPEN},
        {"listen": OPEN, "auth": "required"},
        {"listen": OPEN, **PAIR},
        {"listen": "[::]:7471", "auth": "required"},
    ],
)
def test_a_door_to_elsewhere_needs_access_control_and_tls(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="LORRY_REGISTRY_AUTH=required"):
        Settings(**settings)
    assert Settings(**settings, insecure=True).listen == settings["listen"]


def test_with_both_it_needs_nobodys_permission() -> None:
    settings = Settings(listen=OPEN, auth="required", **PAIR)
    assert settings.tls is not None
    assert settings.tls.certificate == PAIR["tls_cert"]
    assert Settings(auth="required").tls is None


@pytest.mark.parametrize("settings", [{"tls_cert": Path("x")}, {"tls_key": Path("x")}, {"tls_client_ca": Path("x")}])
def test_half_of_a_certificate_is_refused(settings: dict[str, Path]) -> None:
    with pytest.raises(ValidationError, match="LORRY_REGISTRY_TLS_CERT and LORRY_REGISTRY_TLS_KEY together"):
        Settings(**settings)


def test_the_first_administrator_comes_in_through_the_database(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    pair = authority.server()
    folder = tmp_path / "registry"
    code, token, said = run("token", "create", "root", "--scope", "*=admin", "--expires", "90d", DATA_DIR=str(folder))
    assert (code, said) == (0, "")
    ours = {"AUTH": "required", "TLS_CERT": str(pair.certificate), "TLS_KEY": str(pair.key)}
    environment = {f"LORRY_REGISTRY_{name}": value for name, value in ours.items()}
    with registry_process(folder, **environment) as running:
        trust = {"root_certificates": authority.root}
        with sync.RegistryClient(running.target, token=token.strip(), **trust) as client:
            assert client.whoami().name == "root"
            assert [(e.principal, e.action, e.name) for e in client.audit_entries()] == [
                ("registry", "CreatePrincipal", "root")
            ]
        with sync.RegistryClient(running.target, **trust) as nobody, pytest.raises(Unauthenticated):
            nobody.whoami()
        assert run("health", LISTEN=running.target, **ours) == (0, "", "")
        assert run("health", LISTEN=running.target)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["anonymous", "--scope", "*=admin"], "which the audit log uses"),
        (["root", "--scope", "admin"], "expected NAMESPACE=PERMISSION"),
        (["root", "--scope", "*=admin", "--expires", "never"], "expected a span of time"),
    ],
)
def test_a_first_token_that_cannot_be_is_told_in_one_line(
    run: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    code, out, text = run("token", "create", *arguments, DATA_DIR=str(tmp_path))
    assert (code, out, said in text, len(text.splitlines())) == (1, "", True, 1)


def test_files_that_are_no_certificate_are_told_in_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "no.pem"
    file.write_text("nothing")
    files = {"TLS_CERT": str(file), "TLS_KEY": str(file), "DATA_DIR": str(tmp_path), "LISTEN": "127.0.0.1:0"}
    code, _, text = run("serve", **files)
    assert (code, text.splitlines()[-1]) == (
        1,
        "lorry-registry: TLS: expected a certificate and a key without passphrase in PEM, got others",
    )
