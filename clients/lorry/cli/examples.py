"""Examples and items as files of JSON lines, and selections as they are written in one word.

Owns these two spellings and the perplexity of scores, shared by score, compare and search. Does not know
what is done with them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lorry.cli import output
from lorry.cli.context import adapters
from lorry.errors import InvalidInput

if TYPE_CHECKING:
    from lorry.scoring import Item
    from lorry.selection import Adapters

Examples = Annotated[
    Path,
    typer.Option(
        "--examples",
        metavar="FILE",
        help='JSON lines: {"prompt": ..., "continuation": ...}; "messages" for a chat; - reads standard input.',
    ),
]


def read_items(path: Path) -> Iterator[Item]:
    """The items of a file, line by line as they are asked for. Raises InvalidInput, which names the line, OSError."""
    try:
        with _opened(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _item(line, number)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: expected text in UTF-8: {error}") from error


def selection(text: str) -> Adapters:
    """`pirate`, or `pirate+json=0.5` for several at once; `base` alone in parentheses, `(base)`, is the base model."""
    return adapters([] if text == output.BASE else text.split("+"))


def perplexity(per_token: float) -> float:
    """Of a mean log-probability; infinity where no float is as large."""
    try:
        return math.exp(-per_token)
    except OverflowError:
        return math.inf


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    if str(path) == "-":
        yield sys.stdin
        return
    with path.open(encoding="utf-8") as lines:
        yield lines


def _item(line: str, number: int) -> Item:
    try:
        item: Any = json.loads(line)
    except ValueError as error:
        raise InvalidInput(f"line {number}: expected JSON: {error}") from error
    if not isinstance(item, dict):
        raise InvalidInput(f"line {number}: expected an object, got {line.strip()[:40]}")
    given = item.get("adapters")
    if isinstance(given, str | list):
        item["adapters"] = adapters([given] if isinstance(given, str) else [str(one) for one in given])
    return cast("Item", item)  # the SDK tells which fields there are
