"""Seeded mutants: registries that break one rule each, to show that the checks notice.

Knows the rules as the functions that keep them. Does not know which check notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace as changed
from datetime import datetime
from typing import Any

from adapter_registry.domain.garbage import StoredBlob
from adapter_registry.domain.records import NewVersion, VersionRecord
from adapter_registry.service.stored import StoredBlobs
from adapter_registry.store.catalog import SqlCatalog
from adapter_registry.store.keeping import BlobRow
from adapter_registry.store.sweeping import _NAMED
from lorry.format.reference import AdapterName, Reference
from tests.chaos.patching import Make, replace

# Until a commit that was acknowledged already: longer than an answer is on its way.
_LATE_SECONDS = 0.3


def _never(answer: object) -> Make:
    """A function that does nothing, and answers the same to everybody."""
    return lambda _: lambda *_args, **_kwargs: answer


def _row_first(receive: Callable[..., Any]) -> Callable[..., Any]:
    async def row_first(
        self: StoredBlobs, digest: str, size: int, namespace: str, pieces: AsyncIterator[Any]
    ) -> tuple[int, bool]:
        await self._queries.run(self._ledger.record, digest, size, None, namespace)
        answer: tuple[int, bool] = await receive(self, digest, size, namespace, pieces)
        return answer

    return row_first


def _answer_first(keep: Callable[..., Any]) -> Callable[..., Any]:
    running = set()

    async def late(*args: object) -> None:
        await asyncio.sleep(_LATE_SECONDS)
        await keep(*args)

    async def answer_first(*args: object) -> None:
        running.add(asyncio.create_task(late(*args)))

    return answer_first


def _alias_apart(create_version: Callable[..., Any]) -> Callable[..., Any]:
    def alias_apart(self: SqlCatalog, new: NewVersion) -> tuple[VersionRecord, bool]:
        version, created = create_version(self, changed(new, alias=None))
        if new.alias is not None:
            self.set_alias(Reference(AdapterName(new.namespace, new.name), digest=version.digest), new.alias, None)
        return version, created

    return alias_apart


def _uncondemned(_: Callable[..., Any]) -> Callable[..., Any]:
    def condemn(self: SqlCatalog, digests: Sequence[str], before: datetime) -> list[StoredBlob]:
        return [blob for blob in self.unnamed(before, "", len(digests)) if blob.digest in digests]

    return condemn


_GARBAGE = "adapter_registry.store.sweeping:_garbage"
MUTANTS: dict[str, tuple[str, Make]] = {
    "row-before-bytes": ("adapter_registry.service.stored:StoredBlobs.receive", _row_first),
    "answer-before-commit": ("adapter_registry.service.stored:StoredBlobs._keep", _answer_first),
    "alias-in-a-transaction-of-its-own": ("adapter_registry.store.catalog:SqlCatalog.create_version", _alias_apart),
    "no-digest-check": ("adapter_registry.blobs.sums:Sums.verify", _never(None)),
    "size-of-the-header": ("adapter_registry.blobs.intake:Intake.require_all", _never(None)),
    "folder-not-synced": ("adapter_registry.blobs.file_upload:sync_folder", _never(None)),
    "no-lease-at-delete": ("adapter_registry.store.deletions:_leases", _never(())),
    "published-without-looking": ("adapter_registry.store.versions:require_live", _never(None)),
    "swept-though-named": (_GARBAGE, lambda _: lambda before: (~BlobRow.condemned, BlobRow.touched < before)),
    "swept-without-grace": (_GARBAGE, lambda _: lambda _before: (~BlobRow.condemned, ~_NAMED)),
    "swept-without-condemning": ("adapter_registry.store.catalog:SqlCatalog.condemn", _uncondemned),
}


def install(name: str) -> Callable[[], None]:
    """Break the rule in this process; answers what mends it."""
    return replace(*MUTANTS[name])


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The rule is broken in this process for the time of the block."""
    mend = install(name)
    try:
        yield
    finally:
        mend()
