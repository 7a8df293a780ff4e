"""What every catalogue keeps: the conformance suite of domain.catalog.Catalog.

A test class that inherits CatalogSuite gives two fixtures: `catalog`, an empty one, and `reopen`,
which opens the same one again, as another process would.
"""

from __future__ import annotations

import pytest

_PARTS = (
    "bases",
    "versions",
    "aliases",
    "adapters",
    "deletions",
    "events",
    "principals",
    "filters",
    "leases",
    "lineage",
    "retention",
    "races",
    "signatures",
    "upkeep",
    "verdicts",
)
pytest.register_assert_rewrite(*(f"tests.suites.catalog_{part}" for part in _PARTS))

from tests.suites.catalog_adapters import AdapterRules  # noqa: E402 - the asserts of these are to be rewritten
from tests.suites.catalog_aliases import AliasRules, RollbackRules  # noqa: E402
from tests.suites.catalog_bases import BaseRules  # noqa: E402
from tests.suites.catalog_deletions import DeletionRules  # noqa: E402
from tests.suites.catalog_events import EventRules  # noqa: E402
from tests.suites.catalog_filters import FilterRules  # noqa: E402
from tests.suites.catalog_leases import LeaseRules  # noqa: E402
from tests.suites.catalog_lineage import LineageRules  # noqa: E402
from tests.suites.catalog_principals import PrincipalRules  # noqa: E402
from tests.suites.catalog_races import RaceRules  # noqa: E402
from tests.suites.catalog_retention import RemovalRules, RetentionRules  # noqa: E402
from tests.suites.catalog_signatures import SignatureRules  # noqa: E402
from tests.suites.catalog_upkeep import UpkeepRules  # noqa: E402
from tests.suites.catalog_verdicts import FamilyRules, VerdictRules  # noqa: E402
from tests.suites.catalog_versions import VersionRules  # noqa: E402


class CatalogSuite(
    BaseRules,
    VersionRules,
    AliasRules,
    AdapterRules,
    DeletionRules,
    EventRules,
    RollbackRules,
    FilterRules,
    LeaseRules,
    LineageRules,
    RetentionRules,
    RemovalRules,
    RaceRules,
    FamilyRules,
    VerdictRules,
    PrincipalRules,
    SignatureRules,
    UpkeepRules,
):
    """All of it."""
