"""`lorry-worker serve | health`: the worker as a process; settings come from LORRY_WORKER_*."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Coroutine, Sequence

import uvloop

from compute_worker.settings import Settings
from lorry.rpc import process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is `lorry.rpc.process.run`'s."""
    return process.run(_parser(), Settings, _run, arguments)


def _run(options: argparse.Namespace, settings: Settings) -> None:
    match options.command:
        case "serve":
            serve = _loaded(settings.model)
            uvloop.run(serve(settings, lambda address: process.announce(options, address)))
        case "health":
            process.require_serving("worker", settings.listen, settings.tls)


def _loaded(model: str) -> Callable[[Settings, Callable[[str], None]], Coroutine[None, None, None]]:
    """The server, loaded here so that `health` answers without torch, and in a tenth less time.

    2,000 modules come and none goes: nothing is looked for among them, neither now nor, frozen, later on.
    """
    gc.disable()
    from lorry import lean

    lean.load(model)
    from compute_worker.app import serve

    gc.freeze()
    gc.enable()
    return serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lorry-worker", description="The compute worker of Lorry.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve | health")
    process.add_serve(commands, "load the base LORRY_WORKER_MODEL and serve until SIGTERM")
    commands.add_parser("health", help="ask the worker on LORRY_WORKER_LISTEN; exit code 0 where it serves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
