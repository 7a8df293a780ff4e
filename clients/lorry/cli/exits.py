"""What the command's exit code says, and how an error looks.

Owns the table of exit codes and the one line on stderr. Does not know any command.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorry import errors
from lorry.cli.output import printable

OTHER = 1

# First match wins. Printed by `lorry --help`.
_CODES: tuple[tuple[int, str, tuple[type[errors.LorryError], ...]], ...] = (
    (2, "wrong usage, or input that cannot be right", (errors.InvalidInput, errors.OutOfRange)),
    (3, "no such thing", (errors.NotFound,)),
    (4, "conflict: another thing has that name, or a revision moved on", (errors.Conflict, errors.RevisionConflict)),
    (5, "unavailable, or not done in time: try again later", (errors.Unavailable, errors.DeadlineExceeded)),
    (6, "does not fit: incompatible, unsupported, yanked, pinned, in use", (errors.FailedPrecondition,)),
    (7, "no room", (errors.Exhausted,)),
    (8, "bytes are damaged", (errors.DataLoss,)),
    (9, "not authenticated, or not allowed to", (errors.Unauthenticated, errors.PermissionDenied)),
)


def exit_code(error: errors.LorryError) -> int:
    """The exit code of an error; 1 where the table has no line for it."""
    return next((code for code, _, kinds in _CODES if isinstance(error, kinds)), OTHER)


def table() -> str:
    """The exit codes for people."""
    lines = [(0, "done"), (OTHER, "anything else"), *((code, text) for code, text, _ in _CODES), (130, "interrupted")]
    return "\n".join(f"{code:>3}  {text}" for code, text in lines)


@dataclass(slots=True)
class Telling:
    """How much is told of an error. verbose: the request's id, too, for whoever reads the server's log."""

    verbose: bool = False


# One command runs in a process; its option is known only inside of it, where the error is long gone.
telling = Telling()


def error_line(reason: str, message: str, request_id: str = "") -> str:
    """One line, whatever the message holds; with the request's id where that is asked for, or all there is."""
    line = f"error: {reason}: {printable('; '.join(line.strip() for line in message.splitlines() if line.strip()))}"
    told = request_id and (telling.verbose or reason == errors.Internal.reason)
    return f"{line} (request {request_id})" if told else line
