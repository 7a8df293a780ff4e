"""What every catalogue keeps: the conformance suite of domain.catalog.Catalog.

A test class that inherits CatalogSuite gives two fixtures: `catalog`, an empty one, and `reopen`,
which opens the same one again, as another process would.
"""

from __future__ import annotations

from tests.suites.catalog_adapters import AdapterRules
from tests.suites.catalog_aliases import AliasRules, RollbackRules
from tests.suites.catalog_bases import BaseRules
from tests.suites.catalog_deletions import DeletionRules
from tests.suites.catalog_events import EventRules
from tests.suites.catalog_filters import FilterRules
from tests.suites.catalog_leases import LeaseRules
from tests.suites.catalog_lineage import LineageRules
from tests.suites.catalog_principals import PrincipalRules
from tests.suites.catalog_races import RaceRules
from tests.suites.catalog_reservations import ReservationRules
from tests.suites.catalog_retention import RemovalRules, RetentionRules
from tests.suites.catalog_signatures import SignatureRules
from tests.suites.catalog_upkeep import UpkeepRules
from tests.suites.catalog_verdicts import FamilyRules, VerdictRules
from tests.suites.catalog_versions import VersionRules


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
    ReservationRules,
    UpkeepRules,
):
    """All of it."""
