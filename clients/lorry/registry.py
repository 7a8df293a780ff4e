"""The registry's client: the catalogue's and the blob store's calls, and whole adapters in and out.

Owns push (check, compare, send what is missing, publish) and pull (resolve, verify, fetch, note the
origin). Does not know torch or PEFT: a folder goes in and comes out as the bytes that it is.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from lorry.access import AccessCalls
from lorry.admin import AdminCalls
from lorry.blobs import BlobCalls, Progress, silent
from lorry.errors import Conflict, MissingBlobs
from lorry.format.bundle import OPTIONAL, WEIGHTS_NAME, Bundle, check_bundle, check_names
from lorry.format.digest import digest_of_file
from lorry.format.manifest import Manifest, ManifestFile, Recipe
from lorry.format.reference import parse_adapter_name
from lorry.origin import NOTES, Origin, read_origin, write_origin
from lorry.partfile import sync_folder
from lorry.rpc.credentials import Credentials
from lorry.signatures import SignatureCalls, manifest_of, signed
from lorry.v1.catalog_pb2 import AdapterOutline, CheckCompatibilityResponse
from lorry.v1.types_pb2 import Version

if TYPE_CHECKING:
    from lorry.signing import SigningKey

# Plain calls read and write rows; the slowest, CreateVersion, reads the stored weights once.
DEFAULT_TIMEOUT_SECONDS = 60.0
# Files of one adapter in flight. There is one big file; the others hide behind it.
_PARALLEL_FILES = 4


class RegistryClient(SignatureCalls, BlobCalls, AdminCalls, AccessCalls):
    """An adapter registry at `host:port`. `credentials`: see lorry.rpc.credentials.Credentials."""

    def __init__(
        self, address: str, *, timeout: float = DEFAULT_TIMEOUT_SECONDS, **credentials: Unpack[Credentials]
    ) -> None:
        super().__init__(address, timeout=timeout, **credentials)

    async def push(  # noqa: PLR0913 - what a version may say besides its files, all with defaults
        self,
        directory: Path,
        adapter: str,
        *,
        base: str = "",
        parents: Sequence[str] | None = None,
        recipe: Recipe | None = None,
        alias: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        key: SigningKey | None = None,
        progress: Progress = silent,
    ) -> Version:
        """Publish a PEFT folder as a version of `adapter`; idempotent, and resumed where it was cut.

        `base` (name or base_id; empty for the one that the configuration names) is judged before any
        weights are sent. `parents` None: the version that the folder was pulled from, if the folder
        changed since. `key` signs the manifest as it is derived here; where the registry derives
        another, it refuses. Raises InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter,
        BaseNotFound, ParentNotFound, and what `upload` and `create_version` raise; OSError where the
        folder cannot be read.
        """
        bundle = await asyncio.to_thread(check_bundle, directory)
        if parents is None:
            parents = await asyncio.to_thread(_parents, directory, bundle)
        if judged := base or bundle.facts.base_name:
            await self.demand_compatible(outline(bundle), judged)
        target = parse_adapter_name(adapter)
        manifest = await self._manifest_to_be(bundle, base, parents, recipe) if key else None
        create = partial(
            self.create_version,
            adapter,
            bundle.files,
            base=base,
            parents=parents,
            recipe=recipe,
            alias=alias,
            description=description,
            labels=labels,
            expected_digest=manifest.digest if manifest else "",
            signatures=[signed(manifest, target, key)] if manifest and key else (),
        )
        await self._provide(bundle, target.namespace, progress)
        try:
            return await create()
        except MissingBlobs:  # garbage collection was quicker, where its grace is shorter than a push
            await self._provide(bundle, target.namespace, progress)
            return await create()

    async def _provide(self, bundle: Bundle, namespace: str, progress: Progress) -> None:
        """Upload what the namespace lacks of the bundle, each file once however often it is in there."""
        by_digest = {file.digest: file for file in bundle.files}
        missing = await self.find_missing(sorted(by_digest), namespace=namespace)
        for digest in by_digest.keys() - set(missing):
            progress(by_digest[digest].name, by_digest[digest].size, by_digest[digest].size)
        await _together(
            self.upload(bundle.path(by_digest[digest]), digest, namespace=namespace, progress=progress)
            for digest in missing
        )

    async def check(self, subject: Path | str, base: str) -> CheckCompatibilityResponse:
        """The verdict on a folder, or on a published version by its reference, against a base. Sends no weights.

        For a folder an empty base means the one that its configuration names.
        """
        if isinstance(subject, str):
            return await self.check_compatibility(subject, base)
        bundle = await asyncio.to_thread(check_bundle, subject)
        return await self.check_compatibility(outline(bundle), base or bundle.facts.base_name or "")

    async def pull(
        self, reference: str, into: Path, *, overwrite: bool = False, progress: Progress = silent
    ) -> Version:
        """Write a version's files into a folder that PeftModel.from_pretrained loads.

        Every byte is verified before its file appears; files that are right already are kept. The
        folder remembers the version, so that a later push names it as parent. Raises Conflict where
        a file differs, or is one that the version has not, and `overwrite` is False, DigestMismatch,
        what `resolve` and `download` raise.
        """
        version = await self.resolve(reference)
        manifest = _verified(version)
        strange = await asyncio.to_thread(_strange, manifest, into)
        wanted = await asyncio.to_thread(_to_fetch, manifest, into, strange, overwrite=overwrite)
        notes = into / NOTES
        notes.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=notes) as staging:
            await _together(
                self.download(file.digest, file.size, Path(staging, file.name), progress=progress) for file in wanted
            )
            await asyncio.to_thread(_publish, Path(staging), into, wanted, strange)
        source = f"{version.namespace}/{version.name}@{version.digest}"
        write_origin(into, Origin(source, {file.name: file.digest for file in manifest.files}))
        return version


def outline(bundle: Bundle) -> AdapterOutline:
    """All that a bundle's compatibility depends on: a few KB, whatever the weights' size."""
    weights = next(file for file in bundle.files if file.name == WEIGHTS_NAME)
    return AdapterOutline(config_json=bundle.config, safetensors_header=bundle.header, weights_size_bytes=weights.size)


def _parents(directory: Path, bundle: Bundle) -> list[str]:
    origin = read_origin(directory)
    return [origin.reference] if origin is not None and origin.differs_from(bundle.files) else []


def _verified(version: Version) -> Manifest:
    manifest = manifest_of(version)
    check_names(file.name for file in manifest.files)
    return manifest


def _strange(manifest: Manifest, into: Path) -> list[Path]:
    """Files that a later push would take for the version's, and that are another's."""
    others = OPTIONAL.difference(file.name for file in manifest.files)
    return [into / name for name in sorted(others) if (into / name).exists()]


def _to_fetch(manifest: Manifest, into: Path, strange: Sequence[Path], *, overwrite: bool) -> list[ManifestFile]:
    wanted = [file for file in manifest.files if not _is_there(into / file.name, file.digest)]
    in_the_way = [*(path for file in wanted if (path := into / file.name).exists()), *strange]
    if in_the_way and not overwrite:
        raise Conflict(f"{in_the_way[0]} holds something else; pull into another folder, or overwrite it on purpose")
    return wanted


def _is_there(path: Path, digest: str) -> bool:
    return path.exists() and digest_of_file(path) == digest


def _publish(staging: Path, into: Path, files: Iterable[ManifestFile], strange: Iterable[Path]) -> None:
    for file in files:
        (staging / file.name).replace(into / file.name)
    for path in strange:
        path.unlink()
    sync_folder(into)


async def _together(work: Iterable[Awaitable[None]]) -> None:
    """Run all, a few at a time; the first failure cancels the others and is raised."""
    places = asyncio.Semaphore(_PARALLEL_FILES)

    async def one(task: Awaitable[None]) -> None:
        async with places:
            await task

    try:
        async with asyncio.TaskGroup() as group:
            for task in work:
                group.create_task(one(task))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
