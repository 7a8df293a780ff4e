"""`lorry-registry serve | migrate | health`: the registry as a process; settings come from LORRY_REGISTRY_*."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import uvloop

from adapter_registry.app import migrate, serve
from adapter_registry.settings import Settings
from lorry.rpc import process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is `lorry.rpc.process.run`'s."""
    return process.run(_parser(), Settings, _run, arguments)


def _run(options: argparse.Namespace, settings: Settings) -> None:
    match options.command:
        case "serve":
            uvloop.run(serve(settings, lambda address: process.announce(options, address)))
        case "migrate":
            migrate(settings)
            sys.stderr.write("the database has the tables of this release\n")
        case "health":
            process.require_serving("registry", settings.listen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lorry-registry", description="The adapter registry of Lorry.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve | migrate | health")
    process.add_serve(commands, "serve until SIGTERM; a SQLite database is migrated by itself")
    commands.add_parser("migrate", help="bring the database to the tables of this release")
    commands.add_parser("health", help="ask the registry on LORRY_REGISTRY_LISTEN; exit code 0 where it serves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
