"""Which base an adapter is judged against, which one it was made for, and whether they are of one family.

Owns the look-up of both. What an adapter was made for, its configuration says by a free-text name
until it is published; from then on the manifest's base_id counts, by which the publisher answered
for it. Does not know the reasons of a verdict: `lorry.format.compatibility` has them, and the worker
gives the same verdict by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import BaseRecord
from adapter_registry.service.rules import MAX_BASE_NAME, check_text, is_plain
from lorry.errors import BaseNotFound
from lorry.format.base import BaseFacts
from lorry.format.compatibility import CarryOver, judge
from lorry.format.digest import check_digest
from lorry.format.facts import AdapterFacts
from lorry.format.findings import Finding


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
        return Verdict(wanted, _judged(catalog, facts, wanted, claimed))
    if claimed is None:
        raise BaseNotFound(
            f"the request names no base, and no registered base is known as {(facts.base_name or '')[:200]!r}, "
            "the base_model_name_or_path of the configuration"
        )
    return Verdict(claimed, judge(facts, claimed, claimed=claimed, by_name=True))


def verdict_of_version(catalog: Catalog, facts: AdapterFacts, made_for: str, base: str) -> tuple[Finding, ...]:
    """Judge a version that was published for the base of the id `made_for`. Raises BaseNotFound, InvalidInput."""
    return _judged(catalog, facts, find_base(catalog, base).facts, catalog.get_base(made_for).facts)


def find_base(catalog: Catalog, name: str) -> BaseRecord:
    """By name, known_as name or base_id. Raises BaseNotFound, InvalidInput."""
    return catalog.get_base(_checked(name))


def update_family(catalog: Catalog, name: str, derived_from: str | None, carry_over: CarryOver | None) -> BaseRecord:
    """Write what is not None; an empty derived_from means that the base stands alone.

    Raises BaseNotFound, InvalidDigest, InvalidInput.
    """
    if derived_from:
        check_digest(derived_from)
    return catalog.update_base(_checked(name), derived_from=derived_from, carry_over=carry_over)


def _checked(name: str) -> str:
    return check_text(name, "base model", MAX_BASE_NAME, shortest=1)


def _judged(catalog: Catalog, facts: AdapterFacts, base: BaseFacts, claimed: BaseFacts | None) -> tuple[Finding, ...]:
    carry_over = CarryOver.REFUSE
    if claimed is not None and claimed.base_id != base.base_id:
        carry_over = catalog.families().carry_over(claimed.base_id, base.base_id)
    return judge(facts, base, claimed=claimed, carry_over=carry_over)


def _claimed(catalog: Catalog, facts: AdapterFacts) -> BaseFacts | None:
    if not facts.base_name or not is_plain(facts.base_name):
        return None
    try:
        return catalog.get_base(facts.base_name).facts
    except BaseNotFound:
        return None
