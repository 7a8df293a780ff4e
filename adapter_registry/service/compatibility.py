"""Which base an adapter is judged against, and which one it says it was made for.

Owns the look-up of both names. Does not know the reasons of a verdict: `lorry.format.compatibility`
has them, and the worker gives the same verdict by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import BaseRecord
from adapter_registry.service.rules import MAX_BASE_NAME, check_text, is_plain
from lorry.errors import BaseNotFound
from lorry.format.base import BaseFacts
from lorry.format.compatibility import Finding, judge
from lorry.format.facts import AdapterFacts


@dataclass(frozen=True, slots=True)
class Verdict:
    """A base and everything that there is to say about an adapter on it."""

    base: BaseFacts
    findings: tuple[Finding, ...]


def verdict(catalog: Catalog, facts: AdapterFacts, base: str) -> Verdict:
    """Judge against the base of that name or id; where it is empty, against the one that the
    adapter's configuration names, with a warning that nobody vouches for it.

    Raises BaseNotFound, InvalidInput.
    """
    claimed = _claimed(catalog, facts)
    if base:
        wanted = find_base(catalog, base).facts
        return Verdict(wanted, judge(facts, wanted, claimed=claimed))
    if claimed is None:
        raise BaseNotFound(
            f"the request names no base, and no registered base is known as {(facts.base_name or '')[:200]!r}, "
            "the base_model_name_or_path of the configuration"
        )
    return Verdict(claimed, judge(facts, claimed, claimed=claimed, by_name=True))


def find_base(catalog: Catalog, name: str) -> BaseRecord:
    """By name, known_as name or base_id. Raises BaseNotFound, InvalidInput."""
    return catalog.get_base(check_text(name, "base model", MAX_BASE_NAME, shortest=1))


def _claimed(catalog: Catalog, facts: AdapterFacts) -> BaseFacts | None:
    if not facts.base_name or not is_plain(facts.base_name):
        return None
    try:
        return catalog.get_base(facts.base_name).facts
    except BaseNotFound:
        return None
