"""`lorry-registry serve | migrate | health`: the registry as a process; settings come from LORRY_REGISTRY_*."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from pydantic import ValidationError

from adapter_registry.app import migrate, serve
from adapter_registry.settings import Settings
from lorry.errors import LorryError
from lorry.rpc.serving import is_serving, write_port_file

# A registry that needs longer to say that it is well is not.
_HEALTH_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 0 for success, 1 for failure, 2 for wrong usage or settings."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = Settings()
        _run(options, settings)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_context=False):
            where = "".join(f"LORRY_REGISTRY_{name}: ".upper() for name in problem["loc"])
            _say(f"{where}{problem['msg']}")
        return 2
    except (LorryError, OSError) as error:
        _say(str(error))
        return 1
    return 0


def _run(options: argparse.Namespace, settings: Settings) -> None:
    match options.command:
        case "serve":
            uvloop.run(serve(settings, lambda address: _ready(address, options.port_file)))
        case "migrate":
            migrate(settings)
            _say("the database has the tables of this release")
        case "health":
            if not is_serving(settings.listen, timeout=_HEALTH_SECONDS):
                raise ConnectionError(f"the registry on {settings.listen} is not serving")


def _ready(address: str, port_file: Path | None) -> None:
    if port_file is not None:
        write_port_file(port_file, address)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lorry-registry", description="The adapter registry of Lorry.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve | migrate | health")
    serving = commands.add_parser("serve", help="serve until SIGTERM; a SQLite database is migrated by itself")
    serving.add_argument(
        "--port-file", type=Path, help="write host:port into this file once calls are answered (for port 0)"
    )
    commands.add_parser("migrate", help="bring the database to the tables of this release")
    commands.add_parser("health", help="ask the registry on LORRY_REGISTRY_LISTEN; exit code 0 where it serves")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"lorry-registry: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
