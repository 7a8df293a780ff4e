"""JSON from strangers: bounded before it is parsed, unambiguous after it.

Owns the limits on size, nesting and number of values, and refuses what readers of JSON disagree
about: duplicate keys, NaN and infinities, lone surrogates, -0 for a count. Does not know what the
document means.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from itertools import accumulate

from lorry.errors import InvalidAdapter

# A string, its closing quote left optional: so an unterminated one matches to the end, once, and the scan stays
# linear. Possessive: nothing to go back to.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
# What a byte of structure does to the nesting.
_STEP = tuple((byte in b"[{") - (byte in b"]}") for byte in range(256))
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
# Digits of a number: 20 hold any 64-bit integer, 40 any double that a writer prints.
_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a document: bytes, nesting, and values (counted as brackets and commas)."""

    size: int
    depth: int
    values: int


def parse_object(data: bytes, what: str, limits: Limits) -> dict[str, object]:
    """The JSON object in `data`. Time and memory are linear in it. Raises InvalidAdapter."""
    if len(data) > limits.size:
        raise InvalidAdapter(f"{what}: expected at most {limits.size} bytes, got {len(data)}")
    _check_structure(data, what, limits)
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except ValueError as error:
        raise InvalidAdapter(f"{what}: expected strict JSON in UTF-8: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise InvalidAdapter(f"{what}: expected a JSON object, got {type(value).__name__}")
    if rb"\u" in data and not _encodable(value):
        raise InvalidAdapter(f"{what}: a string holds half of a surrogate pair")
    return value


def _check_structure(data: bytes, what: str, limits: Limits) -> None:
    structure = _STRING.sub(b"", data).translate(None, _NOT_STRUCTURE)
    if len(structure) > limits.values:
        raise InvalidAdapter(f"{what}: expected at most {limits.values} values, got more")
    if max(accumulate(map(_STEP.__getitem__, structure)), default=0) > limits.depth:
        raise InvalidAdapter(f"{what}: expected nesting of at most {limits.depth}, got more")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice[:80]!r}")
    return found


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text) if len(text) <= _DIGITS else math.nan
    if not math.isfinite(value):
        raise ValueError(f"number out of range: {text[:_DIGITS]}")
    return value


def _integer(text: str) -> int:
    # Rust's parser reads -0 as a float, Python's as an integer.
    if len(text) > _DIGITS or text == "-0":
        raise ValueError(f"integer out of range: {text[:_DIGITS]}")
    return int(text)


def _encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
