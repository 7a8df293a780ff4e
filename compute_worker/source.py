"""The registry as the worker's runtime sees it.

Owns the translation between the SDK's messages and the runtime's values, and what an unreachable
registry is called. Does not know caches, leases, or what an adapter is fetched for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compute_worker.contract import Publication, PublishedAdapter
from lorry.errors import DeadlineExceeded, DigestMismatch, RegistryUnavailable, Unavailable
from lorry.format.manifest import ManifestFile
from lorry.registry import RegistryClient
from lorry.rpc.convert import manifest_from_pb
from lorry.v1 import types_pb2

# A resolution reads a few rows. Longer than gRPC's own retries take, shorter than a caller's patience.
RESOLVE_SECONDS = 5.0


class RegistrySource:
    """An AdapterSource over a registry client."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    async def resolve(self, reference: str) -> PublishedAdapter:
        """See AdapterSource."""
        with _reachable(self._client.address):
            return _published(await self._client.within(RESOLVE_SECONDS).resolve(reference))

    async def fetch(self, file: ManifestFile, into: Path) -> None:
        """See AdapterSource."""
        with _reachable(self._client.address):
            await self._client.download(file.digest, file.size, into)

    async def publish(self, directory: Path, publication: Publication) -> PublishedAdapter:
        """See AdapterSource. The registry takes the recipe's sources as parents."""
        with _reachable(self._client.address):
            version = await self._client.push(
                directory,
                publication.adapter,
                base=publication.base_id,
                parents=(),
                recipe=publication.recipe,
                alias=publication.alias,
                description=publication.description,
            )
        return _published(version)


@contextmanager
def _reachable(address: str) -> Iterator[None]:
    try:
        yield
    except (Unavailable, DeadlineExceeded) as error:
        # StorageUnavailable and Draining are the registry's own words; they pass as they are.
        if type(error) not in {Unavailable, DeadlineExceeded}:
            raise
        raise RegistryUnavailable(f"registry {address}: {error.message}") from error


def _published(version: types_pb2.Version) -> PublishedAdapter:
    manifest = manifest_from_pb(version.manifest)
    if manifest.digest != version.digest:
        raise DigestMismatch(f"expected a manifest of {version.digest}, got one of {manifest.digest}")
    return PublishedAdapter(version.digest, manifest, f"{version.namespace}/{version.name}@{version.number}")
