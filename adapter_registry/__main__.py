"""`lorry-registry`: the registry as a process, and what is done to it by hand. Settings come from LORRY_REGISTRY_*."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from adapter_registry.app import create_token, migrate, serve
from adapter_registry.backup import Copied, back_up, restore
from adapter_registry.domain.acting import Permission, Rights
from adapter_registry.domain.principals import NewPrincipal
from adapter_registry.settings import Settings
from lorry.access import parse_scope
from lorry.rpc import process
from lorry.spans import parse_span


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
        case "backup":
            _tell("backed up", back_up(settings, options.folder))
        case "restore":
            _tell("restored", restore(settings, options.folder))
        case "token":
            sys.stdout.write(f"{create_token(settings, _principal_of(options))}\n")
        case "health":
            process.require_serving("registry", settings.listen, settings.tls)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lorry-registry", description="The adapter registry of Lorry.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    process.add_serve(commands, "serve until SIGTERM; a SQLite database is migrated by itself")
    commands.add_parser("migrate", help="bring the database to the tables of this release")
    commands.add_parser("health", help="ask the registry on LORRY_REGISTRY_LISTEN; exit code 0 where it serves")
    backup = commands.add_parser("backup", help="copy the running registry: SQLite and files; only what is new")
    restored = commands.add_parser("restore", help="fill an empty data folder from a backup, hashing every blob")
    for each in (backup, restored):
        each.add_argument("folder", type=Path, metavar="DIR", help="the folder of the backup")
    _add_token(commands)
    return parser


def _tell(verb: str, copied: Copied) -> None:
    sys.stderr.write(f"{verb} the database and {copied.blobs} blobs; {copied.new_bytes} bytes were new\n")


def _add_token(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "make a token on the database itself: how the first administrator comes in"
    verbs = commands.add_parser("token", help=about).add_subparsers(dest="verb", required=True, metavar="create")
    create = verbs.add_parser("create", help="print a new token; a SQLite database is migrated by itself")
    create.add_argument("name", help="who it is; shown in the audit log")
    create.add_argument(
        "--scope", action="append", required=True, metavar="NAMESPACE=PERMISSION", help="'*=admin' for all there is"
    )
    create.add_argument("--expires", metavar="SPAN", help="such as 90d; never where not given")
    create.add_argument("--delegate", action="store_true", help="for a worker: it acts for its own callers")


def _principal_of(options: argparse.Namespace) -> NewPrincipal:
    scopes = dict(map(parse_scope, options.scope))
    return NewPrincipal(
        name=options.name,
        rights=Rights({namespace: Permission[word.upper()] for namespace, word in scopes.items()}),
        delegate=options.delegate,
        expires=datetime.now(UTC) + parse_span(options.expires) if options.expires else None,
    )


if __name__ == "__main__":
    sys.exit(main())
