"""The pair as two processes on loopback, for as long as a block lasts.

Owns start, readiness and stop: whatever ends the block (its end, an error, Ctrl-C), both processes
are gone after it. Does not know what the demo does with them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# The model is loaded and checked against its own unhooked forward before the worker answers; on a
# busy machine that takes half a minute.
START_SECONDS = 180.0
STOP_SECONDS = 10.0


def end_on_signals() -> None:
    """From now on SIGTERM and a closed terminal end this process as Ctrl-C does: by KeyboardInterrupt."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


class StartFailedError(RuntimeError):
    """A process ended, or stayed silent, before it served; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A started process, which may not be ready yet."""

    name: str
    process: subprocess.Popen[bytes]
    port_file: Path
    log: Path

    def address(self) -> str:
        """`host:port`, once it serves. Raises StartFailedError."""
        limit = time.monotonic() + START_SECONDS
        while not self.port_file.exists():
            if self.process.poll() is not None or time.monotonic() > limit:
                raise StartFailedError(f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        return self.port_file.read_text().strip()


@contextmanager
def server(module: str, state: Path, **settings: str) -> Iterator[Server]:
    """`python -m MODULE serve` on any free port, with `settings` as environment; its log is in `state`."""
    state.mkdir(parents=True, exist_ok=True)
    log = state / "log.txt"
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as output:
        port_file = Path(folder) / "address"
        process = subprocess.Popen(
            [sys.executable, "-m", module, "serve", "--port-file", str(port_file)],
            env=os.environ | settings,
            stdout=output,
            stderr=output,
            # Ctrl-C reaches this process alone, which then stops the servers in order.
            start_new_session=True,
        )
        try:
            yield Server(module, process, port_file, log)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
