"""The `lorry` command as a user runs it, against a registry over a real socket."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lorry import sync
from lorry.cli.main import main
from tests.support.adapters import BASE_NAME, base_for, write_adapter
from tests.support.blocking import blocking
from tests.support.registry import running_registry


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Lorry = Callable[..., Result]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry's folder."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    with blocking(running_registry(data)) as address:
        with sync.RegistryClient(address) as client:
            client.register_base_model(BASE_NAME, base_for())
        yield address


@pytest.fixture
def lorry(address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lorry:
    """Runs `lorry ARGUMENTS...` in this process; the exit code and both outputs."""
    monkeypatch.setenv("LORRY_REGISTRY", address)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["lorry", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Result(int(left.value.code or 0), out, err)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The smallest adapter that fits the registered base."""
    return str(write_adapter(tmp_path / "adapter"))
