"""A real registry in a process that is made to be killed: forked from one that has imported everything.

Owns how it begins and what it dies with: its starter. Crash points and mutants come in here, by the
environment: LORRY_CHAOS_CRASH, a file that names the point; LORRY_CHAOS_MUTANT, a name;
LORRY_CHAOS_SETTLING, how many seconds the collector lets bytes alone that no row knows. The rest of
the environment is the registry's own. Does not know what a test does with it.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import uvloop

# A start takes a tenth of importing all of this again.
_WARM = ["adapter_registry.app", "boto3", "psycopg", "sqlalchemy.dialects.sqlite"]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(_WARM)
# Includes the first import of all.
_START_SECONDS = 120.0
_PR_SET_PDEATHSIG = 1
# Small enough that a deletion of a few versions takes several transactions.
_BATCH = 2


class Started(NamedTuple):
    """A registry that answers on `target`, `host:port`."""

    process: BaseProcess
    target: str


def start(environment: Mapping[str, str], log: Path) -> Started:
    """Start one. Raises RuntimeError where it ends or is not there in time."""
    ours, theirs = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=main, args=(dict(environment), log, theirs))
    process.start()
    theirs.close()
    with ours:
        try:
            if ours.poll(_START_SECONDS):
                return Started(process, ours.recv())
        except EOFError:
            pass
    end(process)
    raise RuntimeError(f"the registry did not start: {log.read_text()}")


def end(process: BaseProcess) -> None:
    """SIGKILL; returns when the process is gone."""
    process.kill()
    process.join()


def main(environment: Mapping[str, str], log: Path, ready: Connection) -> None:
    """Serve until killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for output in (1, 2):
        os.dup2(file, output)
    os.environ.update(environment)
    _spoil()
    from adapter_registry.app import serve
    from adapter_registry.settings import Settings

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(serve(Settings(), ready.send))


def _spoil() -> None:
    from adapter_registry import app
    from adapter_registry.store import removal
    from tests.chaos import mutants, points

    if name := os.environ.get("LORRY_CHAOS_MUTANT"):
        mutants.install(name)
    if armed := os.environ.get("LORRY_CHAOS_CRASH"):
        points.install(Path(armed))
        removal.BATCH = _BATCH
    if settling := os.environ.get("LORRY_CHAOS_SETTLING"):
        app.Keeping = partial(app.Keeping, settling=timedelta(seconds=float(settling)))  # type: ignore[assignment,misc]
