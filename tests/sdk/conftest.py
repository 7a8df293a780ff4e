"""A registry over a real socket, its client, and adapters that fit the base that it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lorry import RegistryClient
from tests.support.adapters import BASE_NAME, base_for, write_adapter
from tests.support.registry import running_registry


@pytest_asyncio.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with running_registry(tmp_path / "registry") as address:
        yield address


@pytest_asyncio.fixture
async def client(address: str) -> AsyncIterator[RegistryClient]:
    async with RegistryClient(address, timeout=20) as client:
        await client.register_base_model(BASE_NAME, base_for())
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest adapter that fits."""
    return write_adapter(tmp_path / "adapter")
