"""One of our servers in a process of its own, on a free port, to be killed at will.

Owns start and stop. Does not know which server it is, nor what a test does with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Torch and transformers take some seconds to load; on a machine with all cores taken, many.
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class ServerProcess:
    """`target`: `host:port` as bound. `log`: what it wrote."""

    target: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(_STOP_SECONDS)


@contextmanager
def server_process(package: str, folder: Path, environment: Mapping[str, str]) -> Iterator[ServerProcess]:
    """`python -m package serve`; ended when the block ends, if it has not by then."""
    folder.mkdir(parents=True, exist_ok=True)
    port_file, log = folder / f"port-{time.monotonic_ns()}", folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", package, "serve", "--port-file", str(port_file)],
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        yield ServerProcess(_wait_for(port_file, process, log), process, log)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, then SIGKILL; the exit status."""
    process.terminate()
    try:
        return process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _wait_for(port_file: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    limit = time.monotonic() + _START_SECONDS
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > limit:
            raise RuntimeError(f"the server did not start: {log.read_text()}")
        time.sleep(0.02)
    return port_file.read_text().strip()
