"""What all rules for blob stores stand on: a store that is open on a fresh storage."""

from __future__ import annotations

import pytest

from adapter_registry.blobs.protocol import BlobStore
from tests.support.blobs import Place


class StoreRules:
    """Inherit and give the fixture `place`."""

    @pytest.fixture
    def store(self, place: Place) -> BlobStore:
        return place.open()
