"""The suite itself: it touches every rpc of the contract, and no part of a server."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.guest import METHODS

# What starts our own registries is no part of the suite.
SUITE = [ast.parse(path.read_text()) for path in sorted(Path(__file__).parent.glob("*.py")) if path.stem != "houses"]
SERVERS = {"adapter_registry", "compute_worker", "sqlalchemy", "boto3"}


def _named(tree: ast.AST) -> Iterator[str]:
    """Names of rpcs that stand in the code as text: that is how a guest is told what to call."""
    return (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in METHODS)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_every_rpc_of_the_contract_is_called() -> None:
    assert {name for tree in SUITE for name in _named(tree)} == set(METHODS)


def test_the_suite_knows_no_server() -> None:
    assert not {module for tree in SUITE for module in _imported(tree) if module.partition(".")[0] in SERVERS}
