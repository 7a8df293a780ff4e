"""The file store obeys the suite, and what it alone promises: durability, locks, typed disk errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_registry.blobs.filesystem import FileStore

from tests.suites.blob_store import BlobStoreSuite, BoundedMemorySuite, Place


class TestFileStore(BlobStoreSuite, BoundedMemorySuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place(open=lambda: FileStore(tmp_path / "store"), granule=1)
