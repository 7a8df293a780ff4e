"""Facts and findings as they are stored: nothing is lost on the way."""

from __future__ import annotations

import pytest

from adapter_registry.store.packing import pack_facts, pack_findings, unpack_facts, unpack_findings
from lorry.format.compatibility import judge
from lorry.format.derive import outline
from lorry.format.facts import AdapterFacts
from lorry.format.header import header_length
from tests.support.adapters import base_for
from tests.support.tiny_kinds import KINDS, Kind


def facts_of(kind: Kind) -> AdapterFacts:
    config, weights = kind.bytes()
    return outline(config, weights[: header_length(weights[:8])], len(weights))


@pytest.mark.parametrize("kind", KINDS)
def test_facts_of_every_kind_come_back_equal(kind: str) -> None:
    facts = facts_of(KINDS[kind])
    assert unpack_facts(pack_facts(facts)) == facts


def test_findings_come_back_equal() -> None:
    findings = judge(facts_of(KINDS["head"]), base_for(vocab_size=33), claimed=None)
    assert len(findings) > 1
    assert unpack_findings(pack_findings(findings)) == findings
    assert pack_findings(()) == b""
