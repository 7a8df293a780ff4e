"""The log of a server: text for people or JSON for machines, one line for each call. Needs the `server` extra.

Owns the form of the lines, and that each line written within a call says which call it was. Does not
know what is worth a line, but for the calls themselves.
"""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias

from lorry.rpc.requestid import Call, current

LogFormat: TypeAlias = Literal["text", "json"]

_FORM = "%(asctime)s %(levelname)s %(name)s %(message)s"
# What a line of text ends with, where it is known; a line of JSON has all fields anyway.
_SHOWN = ("request_id", "method", "principal", "via", "digest", "peer")
_OF_CALL = ("request_id", "method", "principal", "via", "digest", "reason")
_REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
# Asked every few seconds by whoever watches a server, and about nothing but the server.
_ROUTINE = "grpc."

_log = logging.getLogger("lorry.access")


def set_up(form: LogFormat) -> None:
    """Write the log to stderr. Does nothing where somebody else has set up logging."""
    handler = logging.StreamHandler()
    handler.addFilter(_Within())
    handler.setFormatter(_json() if form == "json" else _Text(_FORM))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class AccessLog:
    """A line for each call that has ended; of those that were refused also where `every` is False."""

    def __init__(self, *, every: bool) -> None:
        self._every = every

    def began(self, call: Call) -> None:
        """There is nothing to tell yet."""

    def ended(self, call: Call) -> None:
        """Tell how it ended."""
        refused = call.code in _REFUSED
        if not (refused or self._every):
            return
        level = logging.DEBUG if call.method.startswith(_ROUTINE) else logging.INFO
        facts = {
            "code": call.code,
            "ms": round(call.seconds * 1_000, 3),
            "peer": call.peer,
            **{name: value for name in _OF_CALL if (value := getattr(call, name))},
        }
        _log.log(
            logging.WARNING if refused else level,
            "%s: %s in %.1f ms",
            "refused" if refused else "answered",
            call.reason or call.code,
            facts["ms"],
            extra=facts,
        )


class _Within(logging.Filter):
    """Tells each line the call that it was written in, so far as that is known by then."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (call := current()) is not None:
            for name in ("request_id", "method", "principal"):
                if value := getattr(call, name):
                    setattr(record, name, value)
        return True


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        shown = [f" {name}={vars(record)[name]}" for name in _SHOWN if name in vars(record)]
        return super().formatMessage(record) + "".join(shown)


def _json() -> logging.Formatter:
    # Only where it is asked for.
    from pythonjsonlogger.json import JsonFormatter

    names = {"levelname": "level", "name": "logger"}
    return JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time")
