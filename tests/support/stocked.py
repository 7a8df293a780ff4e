"""A catalogue for tests that are not about blobs: those that a new version names are there.

Knows the rows of blobs, and nothing of what the tests publish.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select

from adapter_registry.domain.records import NewVersion, VersionRecord
from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.database import create_engine_for
from adapter_registry.store.keeping import BlobRow


class StockedCatalog(SqlCatalog):
    """As if every blob had been sent just before its version is published."""

    def create_version(self, new: NewVersion) -> tuple[VersionRecord, bool]:
        sizes = {file.digest: file.size for file in new.manifest.files}
        with self._database.write() as session:
            known = set(session.scalars(select(BlobRow.digest).where(BlobRow.digest.in_(sizes))))
            now = datetime.now(UTC)
            session.add_all(
                BlobRow(digest=digest, size=size, stored=now, touched=now, condemned=False)
                for digest, size in sizes.items()
                if digest not in known
            )
        return super().create_version(new)


def open_stocked(url: str) -> StockedCatalog:
    """Such a catalogue on a migrated database."""
    return StockedCatalog(create_engine_for(url))
