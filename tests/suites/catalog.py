"""What every catalogue keeps: the conformance suite of domain.catalog.Catalog.

A test class that inherits CatalogSuite gives two fixtures: `catalog`, an empty one, and `reopen`,
which opens the same one again, as another process would.
"""

from __future__ import annotations

import pytest

_PARTS = ("bases", "versions", "aliases", "adapters", "deletions", "events", "races")
pytest.register_assert_rewrite(*(f"tests.suites.catalog_{part}" for part in _PARTS))

from tests.suites.catalog_adapters import AdapterRules  # noqa: E402 - the asserts of these are to be rewritten
from tests.suites.catalog_aliases import AliasRules  # noqa: E402
from tests.suites.catalog_bases import BaseRules  # noqa: E402
from tests.suites.catalog_deletions import DeletionRules  # noqa: E402
from tests.suites.catalog_events import EventRules  # noqa: E402
from tests.suites.catalog_races import RaceRules  # noqa: E402
from tests.suites.catalog_versions import VersionRules  # noqa: E402


class CatalogSuite(BaseRules, VersionRules, AliasRules, AdapterRules, DeletionRules, EventRules, RaceRules):
    """All of it."""
