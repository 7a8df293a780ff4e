"""The way from stored bytes to a published version: bytes first, name last.

Owns the order of the steps, and that nothing which a caller claims is believed where the bytes can
say it. Writes one transaction, at the end. Does not know the wire, SQL, or how a verdict is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import NewVersion, VersionRecord
from adapter_registry.service.bundles import inspect
from adapter_registry.service.compatibility import verdict
from adapter_registry.service.pool import Pool
from adapter_registry.service.rules import MAX_PARENTS, check_description, check_labels, check_recipe
from lorry.errors import InvalidAdapter, InvalidInput, NotFound, ParentNotFound
from lorry.format.compatibility import refuse
from lorry.format.digest import check_digest
from lorry.format.facts import AdapterFacts
from lorry.format.manifest import Manifest, ManifestFile, Recipe, build_manifest
from lorry.format.reference import AdapterName, Reference, check_name


@dataclass(frozen=True, slots=True)
class Submission:
    """What a caller wants published.

    base: name or id, empty for the one that the configuration names. parents: the sources of a
    recipe are parents besides and need not be repeated. expected_digest: of the
    manifest as the caller derived it, empty for no comparison. alias: None for none.
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


class Publisher:
    """Publishes versions. `queries` runs the catalogue's calls, `transfers` the store's."""

    def __init__(self, catalog: Catalog, store: BlobStore, *, queries: Pool, transfers: Pool) -> None:
        self._catalog = catalog
        self._store = store
        self._queries = queries
        self._transfers = transfers

    async def publish(self, submission: Submission) -> tuple[VersionRecord, bool]:
        """The published version, and whether it is new.

        Raises what CatalogService.CreateVersion documents, InvalidInput, InvalidName and
        StorageUnavailable. Where it raises, nothing was written.
        """
        _check(submission)
        facts = await self._transfers.run(inspect, self._store, submission.files)
        return await self._queries.run(self._write, submission, facts)

    def _write(self, submission: Submission, facts: AdapterFacts) -> tuple[VersionRecord, bool]:
        judged = verdict(self._catalog, facts, submission.base)
        refuse(judged.findings)
        sources = submission.recipe.sources if submission.recipe else ()
        parents = list(dict.fromkeys([*self._digests(submission.parents), *(source.digest for source in sources)]))
        manifest = build_manifest(submission.files, facts, judged.base.base_id, parents, submission.recipe)
        _compare(manifest, submission.expected_digest)
        return self._catalog.create_version(
            NewVersion(
                namespace=submission.adapter.namespace,
                name=submission.adapter.name,
                manifest=manifest,
                warnings=tuple(f"{finding.code}: {finding.message}" for finding in judged.findings),
                alias=submission.alias,
                description=submission.description,
                labels=submission.labels,
            )
        )

    def _digests(self, parents: Sequence[Reference]) -> list[str]:
        digests: dict[str, None] = {}
        for parent in parents:
            try:
                digests[self._catalog.get_version(parent).digest] = None
            except NotFound as error:
                raise ParentNotFound(f"parent {parent}: {error.message}") from error
        return list(digests)


def _check(submission: Submission) -> None:
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
