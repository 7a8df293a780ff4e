"""However the demo ends, its servers end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from demo.pair import StartFailedError, server

SHOW = """
import sys, time
from pathlib import Path
from demo.pair import end_on_signals, server
end_on_signals()
with server("adapter_registry", Path(sys.argv[1]), LORRY_REGISTRY_LISTEN="127.0.0.1:0") as registry:
    print(registry.address(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_process_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    environment = {"LORRY_REGISTRY_DATA_DIR": str(tmp_path / "data")}
    with subprocess.Popen(
        [sys.executable, "-c", SHOW, str(tmp_path / "state")],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as show:
        assert show.stdout is not None
        assert show.stdout.readline().startswith(b"127.0.0.1:")
        servers = psutil.Process(show.pid).children(recursive=True)
        assert servers
        show.send_signal(number)
        assert show.wait(30) != 0
    assert psutil.wait_procs(servers, timeout=30)[1] == []


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        server("adapter_registry", tmp_path, LORRY_REGISTRY_LISTEN="nowhere") as registry,
        pytest.raises(StartFailedError, match="expected host:port"),
    ):
        registry.address()
