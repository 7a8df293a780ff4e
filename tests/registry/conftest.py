from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.registry import Client, running_registry


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Stubs of a registry of the test's own."""
    async with running_registry(tmp_path / "registry") as target, Client(target) as client:
        yield client
