"""docs/peft.md names tests of ours for PEFT's scenarios: each of them exists, and no row is without an answer."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_TABLE = (ROOT / "docs/peft.md").read_text().partition("## PEFT's scenarios")[2]
ROWS = [line.strip("| ").split(" | ") for line in _TABLE.splitlines() if line.startswith("| `test")]
TESTS = [name for row in ROWS for name in re.findall(r"`(tests/[\w/]+\.py::\w+)`", row[-1])]
# Rows of what cannot be asked of a pair at all.
UNANSWERED = {"not offered", "not possible here"}


def test_the_table_is_read() -> None:
    assert len(ROWS) > 40
    assert all(len(row) == 3 for row in ROWS)


def test_every_scenario_has_a_test_or_says_that_there_is_none() -> None:
    silent = [row[0] for row in ROWS if "`tests/" not in row[-1] and row[-1] not in UNANSWERED]
    assert silent == []


@pytest.mark.parametrize("name", sorted(set(TESTS)))
def test_every_named_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert function in {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
