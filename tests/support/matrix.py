"""The parity matrix: what the cells of tests/parity/test_matrix.py found, as a table behind the tests' own summary.

Owns how a cell is told (`record_property`, so that it comes from any worker process) and how the table is drawn.
Does not know what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

CELL = "parity"
COLUMNS = ("alone", "mixed batch", "weighted pair", "after reload", "combined", "published")
_LEGEND = "largest difference of a log-probability from PEFT's, float32; published: pulled again and loaded by PEFT"


class Cells:
    """Where a test tells what it found."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def tell(self, row: str, column: str, found: float | str, remark: str = "") -> None:
        """A difference, or why there is none."""
        text = f"{found:.1e}" if isinstance(found, float) else found
        self._record(CELL, (row, column, f"{text} {remark}".rstrip()))


@pytest.fixture
def cells(record_property: Callable[[str, object], None]) -> Cells:
    """The matrix."""
    return Cells(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Draw the table, where there are cells."""
    rows: dict[str, dict[str, str]] = {}
    for row, column, text in _told(terminalreporter):
        rows.setdefault(row, {})[column] = text
    if not rows:
        return
    terminalreporter.section("parity with PEFT")
    width = max(map(len, rows))
    lines = [("", dict(zip(COLUMNS, COLUMNS, strict=True))), *rows.items()]
    for row, found in lines:
        told = "  ".join(f"{found.get(column, '-'):>{_width(column, rows)}}" for column in COLUMNS)
        terminalreporter.write_line(f"{row:{width}}  {told}")
    terminalreporter.write_line(_LEGEND)


def _told(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, str]]:
    for reports in terminalreporter.stats.values():
        for report in reports:
            # Another process' properties come as lists.
            yield from (tuple(told) for name, told in getattr(report, "user_properties", ()) if name == CELL)


def _width(column: str, rows: dict[str, dict[str, str]]) -> int:
    return max(len(column), *(len(found.get(column, "")) for found in rows.values()))
