"""What both services' commands have in common: settings, log, exit codes. Needs the `server` extra.

Owns how a failure to start is told to a person: one line on stderr, no traceback, secrets never
shown. Does not know what a command does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import ValidationError

from lorry.errors import LorryError
from lorry.rpc import logs
from lorry.rpc.listening import ServerSettings
from lorry.rpc.serving import is_serving, write_port_file
from lorry.rpc.tls import ServerTls

# A server that needs longer to say that it is well is not.
_HEALTH_SECONDS = 5.0

SettingsT = TypeVar("SettingsT", bound=ServerSettings)


def run(
    parser: argparse.ArgumentParser,
    settings: type[SettingsT],
    command: Callable[[argparse.Namespace, SettingsT], None],
    arguments: Sequence[str] | None,
) -> int:
    """Run a command; the exit code: 0 for success, 1 for failure, 2 for wrong usage or settings."""
    options = parser.parse_args(arguments)
    try:
        chosen = settings()
        logs.set_up(getattr(options, "log_format", None) or chosen.log_format)
        command(options, chosen)
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        for problem in error.errors(include_input=False, include_context=False):
            where = "".join(f"{prefix}{name}: ".upper() for name in problem["loc"])
            say(parser, f"{where}{problem['msg']}")
        return 2
    except (LorryError, OSError) as error:
        say(parser, str(error))
        return 1
    return 0


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser], about: str) -> None:
    """The command that serves until it is told to stop."""
    serving = commands.add_parser("serve", help=about)
    serving.add_argument(
        "--port-file", type=Path, help="write host:port into this file once calls are answered (for port 0)"
    )
    serving.add_argument(
        "--log-format", choices=get_args(logs.LogFormat), help="in place of the setting LOG_FORMAT; text is the default"
    )


def announce(options: argparse.Namespace, address: str) -> None:
    """Tell whoever waits for the port file that calls are answered."""
    if options.port_file is not None:
        write_port_file(options.port_file, address)


def require_serving(name: str, address: str, tls: ServerTls | None) -> None:
    """Raise ConnectionError where the server on `address` does not say that it is well."""
    if not is_serving(address, timeout=_HEALTH_SECONDS, tls=tls):
        raise ConnectionError(f"the {name} on {address} is not serving")


def say(parser: argparse.ArgumentParser, text: str) -> None:
    """One line for the person at the terminal."""
    sys.stderr.write(f"{parser.prog}: {text}\n")
