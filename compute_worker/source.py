"""The registry as the worker sees it: where adapters come from, and who vouches for callers.

Owns the translation between the SDK's messages and the runtime's values, and what an unreachable
registry is called. Does not know caches, leases, or what an adapter is fetched for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import timedelta
from pathlib import Path

from compute_worker.contract import CatalogEvent, Change, Publication, PublishedAdapter, Renewed
from compute_worker.runtime.callers import Granted
from lorry.errors import (
    BaseNotFound,
    DeadlineExceeded,
    DigestMismatch,
    IncompatibleAdapter,
    RegistryUnavailable,
    Unavailable,
)
from lorry.format.manifest import ManifestFile
from lorry.partfile import Sink
from lorry.registry import RegistryClient
from lorry.rpc.convert import manifest_from_pb, timestamp_from_pb
from lorry.rpc.credentials import on_behalf_of
from lorry.v1 import catalog_pb2, types_pb2

# A resolution reads a few rows. Longer than gRPC's own retries take, shorter than a caller's patience.
RESOLVE_SECONDS = 5.0


_CHANGES = {
    "version_created": Change.CREATED,
    "version_yanked": Change.YANKED,
    "version_deleted": Change.DELETED,
    "alias_moved": Change.ALIAS_MOVED,
    "alias_deleted": Change.ALIAS_DELETED,
    "base_updated": Change.BASE_UPDATED,
}


class RegistrySource:
    """An AdapterSource and an Authority over a registry client."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    async def resolve(self, reference: str) -> PublishedAdapter:
        """See AdapterSource."""
        with _reachable(self._client.address):
            return _published(await self._client.within(RESOLVE_SECONDS).resolve(reference))

    async def fetch(self, file: ManifestFile, into: Sink) -> None:
        """See AdapterSource."""
        with _reachable(self._client.address):
            await self._client.receive(into, file.digest, file.name)

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

    async def check_fit(self, reference: str, base_id: str) -> None:
        """See AdapterSource."""
        with _reachable(self._client.address):
            try:
                await self._client.within(RESOLVE_SECONDS).demand_compatible(reference, base_id)
            except BaseNotFound as error:
                raise IncompatibleAdapter(
                    f"{reference} was published for another base, and the registry knows none of {base_id}"
                ) from error

    async def listen(self, token: str) -> AsyncGenerator[CatalogEvent, None]:
        """See AdapterSource."""
        with _reachable(self._client.address):
            return self._heard(await self._client.listen(resume_token=token))

    async def _heard(
        self, responses: AsyncGenerator[catalog_pb2.WatchResponse, None]
    ) -> AsyncGenerator[CatalogEvent, None]:
        with _reachable(self._client.address):
            async with aclosing(responses):
                async for response in responses:
                    yield _event(response)

    async def renew(self, holder: str, adapters: Sequence[str], seconds: float) -> Renewed:
        """See AdapterSource."""
        with _reachable(self._client.address):
            client = self._client.within(RESOLVE_SECONDS)
            answer = await client.renew_leases(holder, adapters, ttl=timedelta(seconds=seconds))
        return Renewed(tuple(answer.missing), tuple(answer.yanked))

    async def granted(self, caller: str) -> Granted:
        """See Authority."""
        with _reachable(self._client.address), on_behalf_of(caller):
            principal = await self._client.within(RESOLVE_SECONDS).whoami()
        scopes: dict[str, int] = {}
        for scope in principal.scopes:
            scopes[scope.namespace] = max(scope.permission, scopes.get(scope.namespace, 0))
        expires = timestamp_from_pb(principal.expire_time) if principal.HasField("expire_time") else None
        return Granted(scopes, expires, principal.anonymous, principal.name)


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
    reference = f"{version.namespace}/{version.name}@{version.number}"
    yanked = version.yank_reason if version.HasField("yank_reason") else None
    return PublishedAdapter(version.digest, manifest, reference, tuple(version.signatures), yanked)


def _event(response: catalog_pb2.WatchResponse) -> CatalogEvent:
    kind = response.WhichOneof("event") or ""
    change = _CHANGES.get(kind)
    if change is None:  # a base became known, or of a registry that is newer than this worker
        return CatalogEvent(response.resume_token)
    said = getattr(response, kind)
    return CatalogEvent(
        token=response.resume_token,
        change=change,
        adapter=f"{response.namespace}/{response.name}",
        digest=getattr(said, "digest", ""),
        alias=getattr(said, "alias", ""),
        reason=getattr(said, "reason", ""),
    )
