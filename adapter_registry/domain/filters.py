"""The filter language of ListAdapters and ListVersions: text in, terms out.

Owns the grammar, the fields with the operators that each takes, and the messages for what does not
parse. Time and memory are linear in the text, whose length is bounded. Does not know how a term is
looked up: the store compiles terms to SQL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lorry.errors import InvalidFilter
from lorry.format.digest import is_digest
from lorry.format.facts import Variant

# Room for a term on every label that an adapter can have (64 of 63 + 63 characters would be the
# worst case, 32 of the usual size is what people type), small enough to parse in a millisecond.
_MAX_LENGTH = 2_000
_MAX_TERMS = 32

_EQUALITY = ("=", "!=")
_ORDER = ("=", "!=", "<", "<=", ">", ">=")
_OPERATORS: dict[str, tuple[str, ...]] = {
    "name": _EQUALITY,
    "variant": _EQUALITY,
    "base": _EQUALITY,
    "fits": _EQUALITY,
    "module": _EQUALITY,
    "parent": _EQUALITY,
    "alias": _EQUALITY,
    "rank": _ORDER,
    "size": _ORDER,
    "created": _ORDER,
    "labels": _EQUALITY,
}
ADAPTER_FIELDS = tuple(_OPERATORS)
VERSION_FIELDS = tuple(field for field in _OPERATORS if field not in {"name", "labels"})

# In each pattern no two alternatives begin with the same character, so none can backtrack.
_SPACE = re.compile(r"\s*")
_AND = re.compile(r"AND(?!\S)")
_FIELD = re.compile(r"[a-z]+")
_OPERATOR = re.compile(r"!=|<=?|>=?|=")
_BARE = re.compile(r'[^\s"=!<>()]+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED = re.compile(r"\\(.)")
# 18 digits fit a signed 64-bit integer, whatever they are.
_NUMBER = re.compile(r"[0-9]{1,18}")
# RFC 3339: a date, or a time with its offset.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d))?", re.ASCII)
# What a moment covers: a date its whole day, a time the smallest step that databases keep.
_DAY = timedelta(days=1)
_STEP = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison of a filter: `field operator value`; for labels, `key` is the label's key.

    field: one of ADAPTER_FIELDS. operator: = or !=, for rank, size and created also <, <=, > and >=.
    value: decimal digits for rank and size, what `interval` takes for created, a digest for parent;
    for name a `*` at the end stands for anything that follows.
    """

    field: str
    operator: str
    value: str
    key: str = ""


def parse_filter(text: str, fields: Sequence[str] = ADAPTER_FIELDS) -> tuple[Term, ...]:
    r"""Terms of a filter such as `name=support-* AND rank<=8 AND labels.team="night shift"`.

    A value is a word, or in double quotes anything, with `\"` and `\\` for these two. An empty text
    has no terms. fields: those that are known to this list. Raises InvalidFilter, whose message
    names the position, counted from 1.
    """
    if len(text) > _MAX_LENGTH:
        raise InvalidFilter(f"a filter has at most {_MAX_LENGTH} characters, got {len(text)}")
    scanner = _Scanner(text)
    terms: list[Term] = []
    while not scanner.at_end():
        if terms:
            scanner.take(_AND, "AND before the next term")
        terms.append(_term(scanner, fields))
    if len(terms) > _MAX_TERMS:
        raise InvalidFilter(f"a filter has at most {_MAX_TERMS} terms, got {len(terms)}")
    return tuple(terms)


def interval(text: str) -> tuple[datetime, datetime]:
    """What a date or a time means: from the first moment on, up to but without the second.

    A date is its whole day in UTC. Raises ValueError on a text that is neither.
    """
    if not _MOMENT.fullmatch(text):
        raise ValueError("neither a date nor a time")
    whole_day = "T" not in text
    try:
        start = datetime.fromisoformat(f"{text}T00:00:00Z" if whole_day else text).astimezone(UTC)
        return start, start + (_DAY if whole_day else _STEP)
    except OverflowError as error:
        raise ValueError("before the first year or behind the last") from error


class _Scanner:
    """A position in the text that only moves forward."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0

    def at_end(self) -> bool:
        """Skip white space, then say whether anything follows."""
        space = _SPACE.match(self._text, self.position)
        self.position = space.end() if space else self.position
        return self.position == len(self._text)

    def follows(self, start: str) -> bool:
        """Whether the rest begins so."""
        return self._text.startswith(start, self.position)

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        """Move behind the pattern; its group, or all of it where it has none."""
        self.at_end()
        found = pattern.match(self._text, self.position)
        if found is None:
            raise self.error(self.position, expected)
        self.position = found.end()
        return found[found.re.groups]

    def error(self, position: int, expected: str) -> InvalidFilter:
        """What to raise where something else was expected at a position."""
        got = repr(self._text[position : position + 24]) if position < len(self._text) else "the end"
        return InvalidFilter(f"filter, position {position + 1}: expected {expected}, got {got}")


def _term(scanner: _Scanner, fields: Sequence[str]) -> Term:
    field, key = _field(scanner, fields)
    scanner.at_end()
    start = scanner.position
    operator = scanner.take(_OPERATOR, "one of " + " ".join(_OPERATORS[field]))
    if operator not in _OPERATORS[field]:
        raise scanner.error(start, f"one of {' '.join(_OPERATORS[field])} behind {field}")
    scanner.at_end()
    start = scanner.position
    value = _text(scanner, "a value")
    expected = _objection(field, value)
    if expected:
        raise scanner.error(start, expected)
    return Term(field, operator, value, key)


def _field(scanner: _Scanner, fields: Sequence[str]) -> tuple[str, str]:
    scanner.at_end()
    start = scanner.position
    field = scanner.take(_FIELD, "a field")
    dotted = scanner.follows(".")
    if field not in fields or dotted != (field == "labels"):
        known = [f"{name}.KEY" if name == "labels" else name for name in fields]
        raise scanner.error(start, f"{', '.join(known[:-1])} or {known[-1]}")
    if not dotted:
        return field, ""
    scanner.position += 1
    return field, _text(scanner, "the key of a label")


def _text(scanner: _Scanner, expected: str) -> str:
    start = scanner.position
    if scanner.follows('"'):
        text = _ESCAPED.sub(r"\1", scanner.take(_QUOTED, 'a text that ends in "'))
    else:
        text = scanner.take(_BARE, expected)
    if "\0" in text:  # PostgreSQL has no such character, so nothing can match it
        raise scanner.error(start, f"{expected} without NUL")
    return text


def _objection(field: str, value: str) -> str | None:
    """What should have come where the value cannot be one of the field's."""
    if field in {"rank", "size"} and not _NUMBER.fullmatch(value):
        return f"a whole number of at most 18 digits for {field}"
    if field == "variant" and value not in {variant.value for variant in Variant}:
        return "one of " + ", ".join(Variant)
    if field == "name" and "*" in value[:-1]:
        return "a name with * at most at its end"
    if field == "parent" and not is_digest(value):
        return "sha256: and 64 hex digits for parent"
    if field == "created" and not _is_moment(value):
        return "a date (2026-01-31) or a time (2026-01-31T12:00:00Z) for created"
    return None


def _is_moment(text: str) -> bool:
    try:
        interval(text)
    except ValueError:
        return False
    return True
