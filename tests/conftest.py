"""What every test may ask for, and what only the long forms run."""

from __future__ import annotations

import os

import pytest

# Rules that several folders inherit: rewritten wherever they are imported first.
pytest.register_assert_rewrite("tests.suites")

pytest_plugins = ["tests.support.postgres", "tests.support.s3", "tests.support.upkeep", "tests.support.matrix"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `long`, unless LORRY_LONG asks for it: it says again, elsewhere, what others said."""
    if os.environ.get("LORRY_LONG"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if not item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
