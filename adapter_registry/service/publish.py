"""The way from stored bytes to a published version: bytes first, name last.

Owns the order of the steps, and that nothing which a caller claims is believed where the bytes can
say it. Writes one transaction, at the end. Does not know the wire, SQL, or how a verdict is found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from adapter_registry.domain.acting import actor
from adapter_registry.domain.blobs import missing_blobs
from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import NewVersion, VersionRecord
from adapter_registry.service.bundles import inspect, outline_of_claimed
from adapter_registry.service.compatibility import verdict
from adapter_registry.service.pool import Pools
from adapter_registry.service.rules import MAX_PARENTS, check_description, check_labels, check_recipe
from adapter_registry.service.signatures import check_signatures
from adapter_registry.service.stored import StoredBlobs
from lorry.errors import BlobNotFound, InvalidAdapter, InvalidInput, NotFound, ParentNotFound
from lorry.format.bundle import check_names
from lorry.format.compatibility import refuse
from lorry.format.digest import check_digest
from lorry.format.facts import AdapterFacts
from lorry.format.manifest import Manifest, ManifestFile, Recipe, build_manifest
from lorry.format.reference import AdapterName, Reference, check_name

# Publications whose files are read at a time: whole ones, in threads that others need for a piece and are gone.
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Submission:
    """What a caller wants published.

    base: name or id, empty for the one that the configuration names. parents: the sources of a
    recipe are parents besides and need not be repeated. expected_digest: of the
    manifest as the caller derived it, empty for no comparison. alias: None for none. signatures: DSSE
    envelopes over the manifest. Without files, those of the version of expected_digest.
    """

    adapter: AdapterName
    files: tuple[ManifestFile, ...]
    base: str = ""
    parents: tuple[Reference, ...] = ()
    recipe: Recipe | None = None
    expected_digest: str = ""
    alias: str | None = None
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    signatures: tuple[bytes, ...] = ()


class Publisher:
    """Publishes versions."""

    def __init__(self, catalog: Catalog, blobs: StoredBlobs, pools: Pools) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._pools = pools
        self._inspecting = asyncio.Semaphore(_AT_ONCE)
        self._own: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def publish(self, submission: Submission) -> tuple[VersionRecord, bool]:
        """The published version, and whether it is new.

        Raises what CatalogService.CreateVersion documents, InvalidInput, InvalidName and
        StorageUnavailable. Where it raises, nothing was written.
        """
        if submission.signatures and not submission.files:
            return await self._pools.writes.run(self._sign, submission), False
        _check(submission)
        digests = [file.digest for file in submission.files]
        blobs = await self._blobs.require(digests, submission.adapter.namespace)
        try:
            facts = await self._pools.transfers.run(outline_of_claimed, blobs, submission.files)
            if not await self._pools.queries.run(self._is_published, submission, facts):
                async with self._turn():
                    await self._pools.transfers.run(inspect, blobs, submission.files)
        except BlobNotFound as error:
            # Swept since it was looked for: to be sent again, as if it had never come.
            raise missing_blobs(await self._blobs.missing(digests, submission.adapter.namespace) or digests) from error
        await self._end_deletion(submission.adapter)
        return await self._pools.writes.run(self._write, submission, facts)

    async def _end_deletion(self, name: AdapterName) -> None:
        """Where an adapter of this name is being deleted, see to the end of it, as its deleter may have died."""
        if await self._pools.queries.run(self._catalog.being_deleted, name):
            await self._pools.removals.run(self._catalog.finish_deletion, name)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """To read a whole bundle: one of each principal at a time, so that none keeps all others waiting."""
        async with self._own.setdefault(actor().principal, asyncio.Lock()), self._inspecting:
            yield

    def _is_published(self, submission: Submission, facts: AdapterFacts) -> bool:
        """Whether the adapter has this very version. Raises what `_write` would, in so far as it can be told."""
        manifest = self._new(submission, facts).manifest
        try:
            self._catalog.get_version(Reference(submission.adapter, digest=manifest.digest))
        except NotFound:
            return False
        return True

    def _write(self, submission: Submission, facts: AdapterFacts) -> tuple[VersionRecord, bool]:
        return self._catalog.create_version(self._new(submission, facts))

    def _new(self, submission: Submission, facts: AdapterFacts) -> NewVersion:
        judged = verdict(self._catalog, facts, submission.base)
        refuse(judged.findings)
        sources = submission.recipe.sources if submission.recipe else ()
        parents = list(dict.fromkeys([*self._digests(submission.parents), *(source.digest for source in sources)]))
        manifest = build_manifest(submission.files, facts, judged.base.base_id, parents, submission.recipe)
        _compare(manifest, submission.expected_digest)
        return NewVersion(
            namespace=submission.adapter.namespace,
            name=submission.adapter.name,
            manifest=manifest,
            warnings=tuple(f"{finding.code}: {finding.message}" for finding in judged.findings),
            alias=submission.alias,
            description=submission.description,
            labels=submission.labels,
            facts=facts,
            signatures=check_signatures(submission.signatures, manifest.digest, submission.adapter),
        )

    def _sign(self, submission: Submission) -> VersionRecord:
        """Add signatures to a version that is published already; its bytes are not looked at."""
        adapter, digest = submission.adapter, submission.expected_digest
        if submission != Submission(adapter, (), expected_digest=digest, signatures=submission.signatures):
            raise InvalidInput("files: expected some, or nothing besides adapter, expected_digest and signatures")
        signatures = check_signatures(submission.signatures, check_digest(digest), adapter)
        return self._catalog.add_signatures(Reference(adapter, digest=digest), signatures)

    def _digests(self, parents: Sequence[Reference]) -> list[str]:
        digests: dict[str, None] = {}
        for parent in parents:
            try:
                digests[self._catalog.get_version(parent).digest] = None
            except NotFound as error:
                raise ParentNotFound(f"parent {parent}: {error.message}") from error
        return list(digests)


def _check(submission: Submission) -> None:
    check_names(file.name for file in submission.files)
    for file in submission.files:
        check_digest(file.digest)
    if len(submission.parents) > MAX_PARENTS:
        raise InvalidInput(f"parents: expected at most {MAX_PARENTS}, got {len(submission.parents)}")
    if submission.expected_digest:
        check_digest(submission.expected_digest)
    if submission.alias is not None:
        check_name(submission.alias, "alias")
    if submission.recipe is not None:
        check_recipe(submission.recipe)
    check_description(submission.description)
    check_labels(submission.labels)


def _compare(manifest: Manifest, expected: str) -> None:
    if expected and manifest.digest != expected:
        raise InvalidAdapter(
            f"expected a manifest of digest {expected}, the bytes give {manifest.digest}: {manifest.canonical_json()!r}"
        )
