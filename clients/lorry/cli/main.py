"""Entry point of `lorry`: runs the command and turns whatever it raises into a line and an exit code.

Owns the way out. Imports nothing heavy, so that a missing extra is told in words.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from lorry.cli.exits import OTHER, error_line, exit_code
from lorry.errors import InvalidInput, LorryError, MissingExtra

_PACKAGES = {"typer", "rich"}


def main() -> None:
    """Run the command of sys.argv and leave with its exit code."""
    try:
        sys.exit(_run())
    except LorryError as error:
        _leave(error_line(error.reason, error.message, error.request_id), exit_code(error))
    except UnicodeError as error:
        if getattr(error, "encoding", "") != "utf-8":
            raise  # a stream's own encoding: nothing that came is wrong
        _leave(error_line(InvalidInput.reason, f"expected text in UTF-8: {error}"), exit_code(InvalidInput("")))
    except OSError as error:
        _leave(error_line("IO", str(error)), OTHER)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        _leave(error_line(MissingExtra.reason, "the command needs the extra `cli`: pip install 'lorry[cli]'"), OTHER)


def _run() -> int | None:
    from typer import TyperException

    from lorry.cli.app import app
    from lorry.rpc.malloc import keep_memory

    keep_memory()
    try:
        code: int | None = app(standalone_mode=False)
    except TyperException as error:
        _leave(error_line("USAGE", f"{error}; see --help"), error.exit_code)
    return code


def _leave(line: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(line, file=sys.stderr)  # noqa: T201 - this is how a command line tool says why
    sys.exit(code)
