"""The memory store obeys the suite."""

from __future__ import annotations

import pytest

from adapter_registry.blobs.memory import MemoryStore
from tests.suites.blob_store import BlobStoreSuite
from tests.support.blobs import Place, flipped


class TestMemoryStore(BlobStoreSuite):
    @pytest.fixture
    def place(self) -> Place:
        store = MemoryStore()

        def damage(digest: str) -> None:
            data, since = store._blobs[digest]
            store._blobs[digest] = flipped(data), since

        return Place(open=lambda: store, granule=1, damage=damage)
