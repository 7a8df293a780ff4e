"""Bases of one shape in a family, versions of one shape, and what is stored about them."""

from __future__ import annotations

from dataclasses import replace

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.filters import parse_filter
from adapter_registry.domain.records import BaseRecord, Page
from lorry.format.compatibility import CarryOver
from lorry.format.facts import AdaptedModule, AdapterFacts, Variant
from lorry.format.findings import Code
from tests.suites.catalog_values import a_base, a_version, everything, ref

# Fits a_base: one module of 8 -> 16 features.
FACTS = AdapterFacts(
    Variant.RSLORA, 4, 0.1, "tiny — ✓", '{"r":4}', "BF16", (AdaptedModule("layers.0.q", 4, 1 / 3, 8, 16, True, False),)
)


def variant(seed: int, parent: int | None, policy: CarryOver = CarryOver.ALLOW) -> BaseRecord:
    """Base `base-SEED`, of the same shape as all others."""
    parent_id = None if parent is None else base_id(parent)
    return replace(a_base(seed, f"base-{seed}"), derived_from=parent_id, carry_over=policy)


def base_id(seed: int) -> str:
    return a_base(seed).facts.base_id


def publish(catalog: Catalog, name: str = "cat", seed: int = 1, facts: AdapterFacts | None = FACTS) -> str:
    """A version for base 1; its digest."""
    new = replace(a_version(name, seed), facts=facts)
    for file in new.manifest.files:
        catalog.record(file.digest, file.size, None, new.namespace)
    return catalog.create_version(new)[0].digest


def verdicts(catalog: Catalog, name: str = "cat") -> dict[str, list[Code]]:
    return {
        verdict.base_name: [finding.code for finding in verdict.findings]
        for verdict in everything(lambda page: catalog.list_verdicts(ref(name), FACTS, page))
    }


def stored(catalog: Catalog, base: int) -> list[str]:
    """Adapters that the filter `fits` finds: it reads what is stored, and computes nothing."""
    terms = parse_filter(f"fits=base-{base}")
    return [adapter.name for adapter in catalog.list_adapters(None, terms, Page()).items]


def judge_all(catalog: Catalog, base: int, batch: int = 2) -> int:
    """Judge what is missing on a base; how many calls it took."""
    at: int | None = 0
    calls = 0
    while at is not None:
        at = catalog.judge_versions(base_id(base), at, batch)
        calls += 1
    return calls
