"""The flags of `lorry ls` as a filter of the registry's language.

Owns how a flag becomes a term, quoted so that no value can end it. What fields and values there are
is the registry's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import typer

from lorry.cli.namespaces import parse_bytes

_COMPARISON = re.compile(r"\s*(<=|>=|!=|<|>|=)?\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given. equal: value by field, None where the flag was not given. rank and size: a value
    with one of = != < <= > >= before it, or none. since and until: the first and last date or time.
    """

    equal: Mapping[str, str | None]
    rank: str | None = None
    size: str | None = None
    since: str | None = None
    until: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def filter_of(text: str, flags: Flags) -> str:
    """A filter that asks for what `text` asks and for what the flags say besides. Raises typer.BadParameter."""
    return " AND ".join([*([text] if text.strip() else []), *_terms(flags)])


def _terms(flags: Flags) -> Iterator[str]:
    for name, value in flags.equal.items():
        if value is not None:
            yield f"{name}={_quoted(value)}"
    if flags.rank is not None:
        sign, value = _compared(flags.rank)
        yield f"rank{sign}{_quoted(value)}"
    if flags.size is not None:
        sign, value = _compared(flags.size)
        yield f"size{sign}{parse_bytes(value)}"
    if flags.since is not None:
        yield f"created>={_quoted(flags.since)}"
    if flags.until is not None:
        yield f"created<={_quoted(flags.until)}"
    for key, value in flags.labels.items():
        yield f"labels.{_quoted(key)}={_quoted(value)}"


def _compared(text: str) -> tuple[str, str]:
    found = _COMPARISON.fullmatch(text)
    if found is None or not found[2]:
        raise typer.BadParameter(f"expected a number, or one behind < <= > >= = or !=, got {text!r}")
    return found[1] or "=", found[2]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
