"""The wire contract: everything is commented, every reason that a proto names exists in the error tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorry import errors

PROTOS = sorted((Path(__file__).resolve().parents[2] / "protos/lorry/v1").glob("*.proto"))


def tree(root: type[errors.LorryError]) -> Iterator[type[errors.LorryError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


REASONS = {c.reason for c in tree(errors.LorryError)}
# Finding codes are no errors; they name what a verdict found.
FINDING = (PROTOS[0].parent / "types.proto").read_text().split("message Finding")[1].split("string code")[0]
FINDINGS = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", FINDING))
STATUS_CODES = {c.code for c in tree(errors.LorryError)}


@pytest.mark.parametrize("path", PROTOS, ids=lambda p: p.name)
def test_every_reason_named_in_a_comment_is_in_the_error_tree(path: Path) -> None:
    comments = re.findall(r"//(.*)", path.read_text())
    listed = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", "\n".join(comments))) - FINDINGS - STATUS_CODES
    assert listed - REASONS == set()


def test_no_two_errors_share_a_reason() -> None:
    reasons = [c.reason for c in tree(errors.LorryError)]
    assert sorted(reasons) == sorted(set(reasons))


def test_the_tree_is_drawn_at_the_top_of_its_module() -> None:
    drawn = errors.__doc__ or ""
    assert [c.__name__ for c in tree(errors.LorryError) if c.__name__ not in drawn] == []
