"""A lineage that would not fit a message is told as far as it does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from adapter_registry.domain.records import Lineage, LineageNode
from adapter_registry.rpc import answers
from tests.suites.catalog_values import a_manifest, digest


def test_the_nearest_are_told_and_that_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    root, *children = nodes = [
        LineageNode(digest(seed), (f"default/cat@{seed}",), a_manifest(seed, sources=(digest(0),)), datetime.now(UTC))
        for seed in range(5)
    ]
    lineage = Lineage(tuple(nodes), tuple((child.digest, root.digest) for child in children), truncated=False)
    whole = answers.lineage_answer(lineage)
    assert (len(whole.nodes), len(whole.edges), whole.truncated) == (5, 4, False)
    monkeypatch.setattr(answers, "_LINEAGE_BYTES", sum(node.ByteSize() for node in whole.nodes[:3]))
    cut = answers.lineage_answer(lineage)
    assert (list(cut.nodes), list(cut.edges), cut.truncated) == (list(whole.nodes[:3]), list(whole.edges[:2]), True)
    monkeypatch.setattr(answers, "_LINEAGE_BYTES", 1)
    assert [node.digest for node in answers.lineage_answer(lineage).nodes] == [root.digest]
