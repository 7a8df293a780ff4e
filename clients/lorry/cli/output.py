"""How answers look: JSON for programs, tables for people, bars for the impatient.

Owns rendering. Results go to stdout; progress goes to stderr, and only where that is a terminal.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.tree import Tree

    from lorry.blobs import Progress

# A FieldDescriptor: protobuf has two classes of that shape, and types neither in full.
Field: TypeAlias = Any

# Where nobody looks at a terminal, a table is as wide as it needs to be, up to this.
_PIPE_WIDTH = 200
_STEP = 1024
_UNITS = ("B", "KiB", "MiB", "GiB")
_SHORT_DIGEST = len("sha256:") + 12
# Of C0, DEL and C1 all but newline and tab: a carriage return would write over what was said before.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# How a selection without adapters is written, and read where one is given in a word.
BASE = "(base)"


def say(text: str) -> None:
    """A line on stdout."""
    print(text)  # noqa: T201 - this is the command's output


def note(text: str) -> None:
    """A line for people on stderr, which no program that reads stdout sees."""
    print("\n".join(map(printable, text.splitlines())), file=sys.stderr)  # noqa: T201 - likewise


def write(piece: str) -> None:
    """A piece of a streaming text, shown at once; it drives no terminal: other people's weights choose it."""
    sys.stdout.write(_CONTROL.sub("?", piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def say_json(value: object) -> None:
    """One JSON document on one line. Messages are written with the contract's field names."""
    say(json.dumps(plain(value), ensure_ascii=False))


def plain(value: Any) -> Any:
    """A message as dictionaries: numbers stay numbers, enumerations their names, times RFC 3339.

    A field without a value is absent where the contract tells unset from empty, else its default. Bytes
    are text where they are UTF-8, as a signature's envelope is, else base64. JSON has no infinity: that is null.
    """
    from google.protobuf.message import Message

    if isinstance(value, Message):
        if hasattr(value, "ToJsonString"):  # Timestamp, Duration, FieldMask
            return value.ToJsonString()
        return {
            field.name: _field(field, getattr(value, field.name))
            for field in value.DESCRIPTOR.fields
            if not field.has_presence or value.HasField(field.name)
        }
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


def _field(field: Field, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_one(field, entry) for entry in value]
    return _one(field, value)


def _one(field: Field, value: Any) -> Any:
    if field.enum_type is not None:
        return word(field, value)
    return plain(value)


def word(field: Field, number: int) -> str:
    """The name of an enumeration's value; its number where this release does not know it."""
    known = field.enum_type.values_by_number.get(number)
    return str(number) if known is None else known.name


def enum_word(message: Message, name: str) -> str:
    """An enumeration field for people: `VARIANT_RSLORA` is `rslora`, unset is nothing."""
    field: Field = message.DESCRIPTOR.fields_by_name[name]
    full = word(field, getattr(message, name))
    short = full.removeprefix(_prefix(field.enum_type.name)).lower()
    return "" if short == "unspecified" else short


def _prefix(camel: str) -> str:
    return "".join(f"_{c}" if c.isupper() else c for c in camel).lstrip("_").upper() + "_"


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in _UNITS[:-1]:
        if amount < _STEP:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _STEP
    return f"{amount:.1f} {_UNITS[-1]}"


def moment(stamp: Timestamp) -> str:
    """A time for people, in UTC, to the second."""
    return stamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")


def short(digest: str) -> str:
    """A digest, long enough to tell versions apart."""
    return digest[:_SHORT_DIGEST]


def selection(adapters: Iterable[Any]) -> str:
    """Adapters with weights for people, `pirate + 0.5 json`; the base where there is none."""
    parts = [a.adapter if a.weight == 1 else f"{a.weight:g} {a.adapter}" for a in adapters]
    return " + ".join(parts) or BASE


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table on stdout; a column whose name ends in `>` is set to the right."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column in columns:
        right = column.endswith(">")
        shown.add_column(column.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(printable(value) for value in row))
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False, highlight=False).print(shown)


def show_tree(tree: Tree) -> None:
    """A tree on stdout."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False, highlight=False).print(tree)


def printable(value: object) -> str:
    """The text of a value, of which control characters would drive the terminal: names are other people's."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Name and value, a line each; what is empty is left out."""
    kept = [(name, printable(value)) for name, value in facts if value not in ("", None)]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        say(f"{name:<{width}}  {value}")


@contextmanager
def bars(verb: str) -> Iterator[Progress]:
    """A bar a file while the block runs."""
    from lorry.blobs import silent

    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(f"{verb} {{task.description}}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        tasks: dict[str, Any] = {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                # What is whole from the first was there already: nothing of it is sent.
                tasks[name] = shown.add_task(f"{name} (exists)" if done == total else name, total=total)
            shown.update(tasks[name], completed=done, total=total)

        yield advance


@contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """One bar while the block runs; each call of what it gives is one of `total` done."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(text, total=total)
        yield lambda: shown.advance(task)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Says what is being waited for, while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(printable(text))):  # what comes as a plain string is read as markup
        yield
