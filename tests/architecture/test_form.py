"""The form that we hold ourselves to, executed: short files, short functions, modules that say what they own."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("clients/lorry", "adapter_registry", "compute_worker")
GENERATED = ROOT / "clients/lorry/v1"
MAX_FILE_LINES = 300
# One exception tree in one file is a rule of its own, and the stronger one: it is a list, read by name.
LONG_BY_RULE = {"clients/lorry/errors.py"}
MAX_FUNCTION_LINES = 50
MEDIAN_FUNCTION_LINES = 10
# A package's __init__ may say it in one line; a module's docstring says what it owns and what not.
MODULE_DOCSTRING_LINES = 3


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if GENERATED not in path.parents]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(ROOT)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks", "demo", "scripts"])
def test_no_file_is_long(folder: str) -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources(folder)}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES and name not in LONG_BY_RULE} == {}


def test_no_function_is_long() -> None:
    everything = [f for path in sources(*PACKAGES, "tests", "demo", "scripts", "benchmarks") for f in functions(path)]
    assert [(name, n) for name, n in everything if n > MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_median_function_is_short(package: str) -> None:
    assert statistics.median(n for path in sources(package) for _, n in functions(path)) < MEDIAN_FUNCTION_LINES


def test_every_module_says_what_it_owns() -> None:
    silent = []
    for path in sources(*PACKAGES):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        wanted = 1 if path.name in {"__init__.py", "__main__.py"} else MODULE_DOCSTRING_LINES
        if len(text.splitlines()) < wanted and "migrations/versions" not in str(path):
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_nothing_is_left_to_be_done() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "X" * 3)
    found = [
        str(p.relative_to(ROOT)) for p in sources(*PACKAGES, "demo", "scripts") for m in marks if m in p.read_text()
    ]
    assert found == []
