"""The S3 store obeys the suite on a real server, and what it alone promises."""

from __future__ import annotations

import pytest
from adapter_registry.blobs.s3 import S3Store
from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.blobs.s3_upload import PART_BYTES

from tests.suites.blob_store import BlobStoreSuite, BoundedMemorySuite, Place

pytestmark = pytest.mark.s3


class TestS3Store(BlobStoreSuite, BoundedMemorySuite):
    @pytest.fixture
    def place(self, s3_settings: S3Settings, s3_bucket: str) -> Place:
        return Place(open=lambda: S3Store(s3_bucket, "some/prefix", s3_settings), granule=PART_BYTES)
