"""Versions, aliases and adapters in the model: publishing, moving, hiding, deleting.

Owns who needs a version, and what goes along with one that is deleted.
"""

from __future__ import annotations

from lorry.errors import (
    AliasNotFound,
    MissingBlobs,
    NoEarlierVersion,
    NotFound,
    ParentNotFound,
    QuotaExceeded,
    RevisionConflict,
    VersionInUse,
    VersionYanked,
)
from lorry.format.reference import AdapterName, Reference
from tests.stateful.model_bases import Bases
from tests.stateful.model_blobs import Blobs
from tests.stateful.model_state import Adapter, Key, Version
from tests.stateful.values import Bundle

Gone = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


class Catalogue(Bases, Blobs):
    """What CatalogService writes."""

    def create(
        self, key: Key, bundle: Bundle, *, base: str, parents: list[Reference], alias: str, labels: dict[str, str]
    ) -> tuple[Adapter, Version]:
        """Publish out of stored blobs."""
        if self.missing([file.digest for file in bundle.files]):
            raise MissingBlobs("")
        target, warnings = self.judge_new(bundle, base)
        try:
            ancestors = tuple(dict.fromkeys(self.locate(parent)[1].digest for parent in parents))
        except NotFound as error:
            raise ParentNotFound("") from error
        manifest = bundle.manifest(target.base_id, ancestors)
        adapter = self.adapters.get(key) or Adapter(key)
        found = next((v for v in adapter.versions.values() if v.digest == manifest.digest), None)
        if found is None:
            self._require_quota(key[0], bundle)
        elif alias and found.yank_reason is not None:
            raise VersionYanked("")
        self.adapters[key] = adapter
        if not adapter.alive:
            self._call_to_life(adapter, labels)
        if found is None:
            adapter.last_number += 1
            found = Version(adapter.last_number, manifest, warnings)
            adapter.versions[found.number] = found
            self.space(key[0]).claims |= {file.digest for file in bundle.files}
            self.known += [found.digest] if found.digest not in self.known else []
            self.tell("version_created", adapter, found.digest, found.number)
        if alias:
            self._point(adapter, found, alias)
        return adapter, found

    def _require_quota(self, namespace: str, bundle: Bundle) -> None:
        self.require_room(namespace, {file.digest: file.size for file in bundle.files})
        limit = self.space(namespace).max_versions
        held = sum(len(adapter.versions) for adapter in self.alive() if adapter.key[0] == namespace)
        if limit and held >= limit:
            raise QuotaExceeded("")

    @staticmethod
    def _call_to_life(adapter: Adapter, labels: dict[str, str]) -> None:
        adapter.alive = True
        adapter.revision += 1
        adapter.description, adapter.labels, adapter.keep_last = "", dict(labels), 0

    def _point(self, adapter: Adapter, version: Version, alias: str) -> None:
        if adapter.aliases.get(alias) == version.number:
            return
        adapter.aliases[alias] = version.number
        adapter.moves.setdefault(alias, []).append((version.digest, version.number))
        self.tell("alias_moved", adapter, alias, version.digest, adapter.revision_of(alias))

    def _drop(self, adapter: Adapter, alias: str) -> None:
        del adapter.aliases[alias]
        adapter.moves[alias].append(("", 0))
        self.tell("alias_deleted", adapter, alias)

    def set_alias(self, reference: Reference, alias: str, expected: int | None) -> tuple[object, ...]:
        adapter, version = self.locate(reference)
        return self._swap(adapter, version, alias, expected)

    def _swap(self, adapter: Adapter, version: Version, alias: str, expected: int | None) -> tuple[object, ...]:
        _compare(adapter, alias, expected)
        if version.yank_reason is not None:
            raise VersionYanked("")
        self._point(adapter, version, alias)
        return alias, version.digest, version.number, adapter.revision_of(alias)

    def rollback(self, key: Key, alias: str, expected: int | None) -> tuple[object, ...]:
        adapter = self.adapter(key)
        if alias not in adapter.aliases:
            raise AliasNotFound("")
        _compare(adapter, alias, expected)
        before = adapter.moves[alias][-2] if len(adapter.moves[alias]) > 1 else ("", 0)
        if not before[0]:
            raise NoEarlierVersion("")
        _, version = self.locate(Reference(AdapterName(*key), digest=before[0]))
        return self._swap(adapter, version, alias, None)

    def delete_alias(self, key: Key, alias: str, expected: int | None) -> None:
        adapter = self.adapter(key)
        if alias not in adapter.aliases:
            raise AliasNotFound("")
        _compare(adapter, alias, expected)
        self._drop(adapter, alias)

    def yank(self, reference: Reference, reason: str) -> tuple[Adapter, Version]:
        adapter, version = self.locate(reference)
        if version.yank_reason is None:
            version.yank_reason = reason
            self.tell("version_yanked", adapter, version.digest, reason)
        return adapter, version

    def children(self, doomed: list[tuple[Adapter, Version]]) -> tuple[str, ...]:
        """Digests of those that stay and would lose the last version of a parent's digest."""
        going = {(adapter.key, version.number) for adapter, version in doomed}
        lost = {
            version.digest
            for _, version in doomed
            if all((a.key, v.number) in going for a, v in self.twins(version.digest))
        }
        staying = [v for a, v in self.everything() if (a.key, v.number) not in going]
        return tuple(sorted({version.digest for version in staying if lost & set(version.manifest.parents)}))

    def holders(self, doomed: list[tuple[Adapter, Version]]) -> tuple[str, ...]:
        going = {(adapter.key, version.number) for adapter, version in doomed}
        return tuple(sorted(holder for holder, held in self.leases.items() if held & going))

    def delete_version(self, reference: Reference, *, force: bool) -> tuple[str, Gone]:
        adapter, version = self.locate(reference)
        doomed = [(adapter, version)]
        gone = adapter.names_of(version.number), self.children(doomed), self.holders(doomed)
        if any(gone) and not force:
            raise VersionInUse("")
        for alias in gone[0]:
            self._drop(adapter, alias)
        self.forget(adapter, version)
        return version.digest, gone

    def delete_adapter(self, key: Key, *, force: bool) -> Gone:
        adapter = self.adapter(key)
        versions = [adapter.versions[number] for number in sorted(adapter.versions)]
        doomed = [(adapter, version) for version in versions]
        gone = tuple(version.digest for version in versions), self.children(doomed), self.holders(doomed)
        if any(gone[1:]) and not force:
            raise VersionInUse("")
        for alias in sorted(adapter.aliases):
            self._drop(adapter, alias)
        for version in versions:
            self.forget(adapter, version)
        adapter.alive, adapter.description, adapter.labels = False, "", {}
        return gone

    def forget(self, adapter: Adapter, version: Version) -> None:
        """A version leaves, and every lease on it."""
        del adapter.versions[version.number]
        for held in self.leases.values():
            held.discard((adapter.key, version.number))
        self.tell("version_deleted", adapter, version.digest)

    def update_adapter(
        self, key: Key, description: str | None, labels: dict[str, str] | None, keep_last: int | None, revision: int
    ) -> Adapter:
        adapter = self.adapter(key)
        if revision and revision != adapter.revision:
            raise RevisionConflict("", revision=str(adapter.revision))
        adapter.description = adapter.description if description is None else description
        adapter.labels = adapter.labels if labels is None else dict(labels)
        adapter.keep_last = adapter.keep_last if keep_last is None else keep_last
        adapter.revision += 1
        return adapter

    def resolve(self, reference: Reference) -> tuple[Adapter, Version]:
        """By name a yanked version is refused, by digest it is not."""
        adapter, version = self.locate(reference)
        if reference.digest is None and version.yank_reason is not None:
            raise VersionYanked("")
        return adapter, version

    def renew(self, holder: str, references: list[Reference]) -> tuple[list[str], list[str]]:
        """Those that are missing, and those that were yanked."""
        held, missing, yanked = set(), [], []
        for reference in references:
            try:
                adapter, version = self.locate(reference)
            except NotFound:
                missing.append(reference.digest or "")
                continue
            held.add((adapter.key, version.number))
            if version.yank_reason is not None:
                yanked.append(version.digest)
        self.leases[holder] = held
        return missing, yanked


def _compare(adapter: Adapter, alias: str, expected: int | None) -> None:
    revision = adapter.revision_of(alias)
    if expected is not None and expected != revision:
        raise RevisionConflict("", revision=str(revision))
