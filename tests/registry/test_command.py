from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_registry.__main__ import main
from tests.support.process import end
from tests.support.registry import registry_process

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with settings of its own; the exit code and what it said."""

    def run_command(*arguments: str, **settings: str) -> tuple[int, str]:
        for name in os.environ:
            if name.startswith("LORRY_REGISTRY_"):
                monkeypatch.delenv(name)
        for name, value in ({"DATA_DIR": str(tmp_path / "own"), "LISTEN": "127.0.0.1:0"} | settings).items():
            monkeypatch.setenv(f"LORRY_REGISTRY_{name}", value)
        return main(arguments), capsys.readouterr().err

    return run_command


def test_health_tells_whether_the_registry_serves(tmp_path: Path, run: Run) -> None:
    with registry_process(tmp_path / "registry") as running:
        assert run("health", LISTEN=running.target) == (0, "")
        code, said = run("serve", LISTEN=running.target)
        assert (code, said.splitlines()) == (
            1,
            [f"lorry-registry: cannot listen on {running.target}: is the address right, and is the port free?"],
        )
        assert end(running.process) == 0
        code, said = run("health", LISTEN=running.target)
    assert (code, said) == (1, f"lorry-registry: the registry on {running.target} is not serving\n")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"LISTEN": "0.0.0.0:0"}, "LORRY_REGISTRY_INSECURE=true"),
        ({"LISTEN": "localhost"}, "LORRY_REGISTRY_LISTEN: Value error, expected host:port"),
        ({"BLOBS": "ftp://x"}, "a blob store is memory://"),
        ({"DATABASE_URL": "mysql://root:hunter2@db/x"}, "database URL: expected sqlite:///FILE or postgresql://"),
        ({"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, "expected an answer of the catalogue's database"),
        ({"S3_SECRET_ACCESS_KEY": "hunter2", "S3_SECRET_ACCESS_KEY_FILE": "/hunter2"}, "not both"),
        ({"DATA_DIR": "/dev/null/x"}, "Not a directory"),
    ],
)
def test_wrong_settings_are_told_in_one_line_without_a_secret(run: Run, settings: dict[str, str], said: str) -> None:
    code, text = run("serve", **settings)
    assert code in {1, 2}
    assert said in text
    assert len(text.splitlines()) == 1
    assert "hunter2" not in text


def test_migrate_makes_the_database(run: Run, tmp_path: Path) -> None:
    assert run("migrate") == (0, "the database has the tables of this release\n")
    assert (tmp_path / "own/catalog.db").exists()


@pytest.mark.parametrize("arguments", [[], ["dance"], ["serve", "--port"]])
def test_wrong_usage_exits_with_2(run: Run, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
