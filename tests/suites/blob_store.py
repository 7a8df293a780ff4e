"""What every blob store must do: the tests that each driver runs, inherited from BlobStoreSuite.

A driver's test class gives one fixture, `place`: a fresh storage that stores can be opened on.
Knows only the Protocols; what a driver alone promises is tested beside it.
"""

from __future__ import annotations

import tracemalloc

from lorry.format.digest import Hasher
from tests.suites.blob_store_ownership import OwnershipRules
from tests.suites.blob_store_reading import ReadingRules
from tests.suites.blob_store_upkeep import UpkeepRules
from tests.suites.blob_store_uploads import UploadRules
from tests.support.blobs import CHUNK, Place, blob


class BlobStoreSuite(ReadingRules, UploadRules, OwnershipRules, UpkeepRules):
    """Inherit and give the fixture `place`."""


class BoundedMemorySuite:
    """For the stores that do not keep blobs in memory. most: bytes that one upload may hold."""

    most = 4 << 20

    def test_memory_is_bounded_whatever_the_size(self, place: Place) -> None:
        size, piece = 64 << 20, blob(CHUNK)
        hasher = Hasher()
        for _ in range(size // CHUNK):
            hasher.update(piece)
        place.open().probe()  # the client's own tables are not the upload's
        store = place.open()
        tracemalloc.start()
        try:
            upload = store.upload(hasher.digest, size)
            for at in range(0, size, CHUNK):
                upload.write(at, piece)
            upload.finish()
            upload.close()
            opened = store.open(hasher.digest)
            assert sum(len(each) for each in opened.chunks(0, 0, CHUNK)) == size
            opened.close()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < self.most
