"""The registry, wired: settings in, a serving process out.

Owns which part gets which other part, and the order of start and stop. Does not know how any of them
works; it is the one place that sees SQL, blob stores and the wire together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from adapter_registry.blobs.factory import open_store
from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.rpc.blobs import BlobServicer
from adapter_registry.rpc.catalog import CatalogServicer
from adapter_registry.service.pool import Pool
from adapter_registry.service.publish import Publisher
from adapter_registry.service.registry import Registry
from adapter_registry.service.watching import Watcher
from adapter_registry.settings import Settings
from adapter_registry.store.catalog import SqlCatalog, open_catalog
from adapter_registry.store.migrate import current_is_head, upgrade
from lorry.errors import FailedPrecondition
from lorry.rpc.serving import Service, serving, stop_signal
from lorry.v1 import blob_pb2_grpc, catalog_pb2_grpc

_log = logging.getLogger(__name__)

# One connection for each thread. More than 8 do not make SQLite or PostgreSQL faster on small machines.
_QUERY_THREADS = 8
# Blob I/O waits for disks and S3 more than it computes; below the S3 store's 32 connections.
_TRANSFER_THREADS = 16


def migrate(settings: Settings) -> None:
    """Bring the database to the tables of this release. Raises InvalidInput, StorageUnavailable."""
    _make_data_dir(settings)
    upgrade(settings.database)


@asynccontextmanager
async def registry(settings: Settings) -> AsyncIterator[str]:
    """Serve for the time of the block; yields `host:port` as bound.

    Raises CannotListen, StorageUnavailable, InvalidInput, and FailedPrecondition where the database
    has to be migrated first.
    """
    draining = asyncio.Event()
    queries, transfers = Pool(_QUERY_THREADS, "catalog"), Pool(_TRANSFER_THREADS, "blobs")
    try:
        catalog, store = await queries.run(_resources, settings)
        try:
            parts = _assemble(catalog, store, queries, transfers, draining)
            async with serving(
                settings.listen, _services(parts), draining=draining, grace=settings.grace_seconds
            ) as listening:
                yield listening.address
        finally:
            await queries.run(catalog.close)
    finally:
        transfers.close()
        queries.close()


async def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `ready` gets the bound address. Raises what registry raises."""
    async with registry(settings) as address:
        _log.info("serving on %s", address)
        ready(address)
        await stop_signal()
        _log.info("draining")


def _resources(settings: Settings) -> tuple[SqlCatalog, BlobStore]:
    _make_data_dir(settings)
    if settings.database.startswith("sqlite"):
        # The embedded default has no operator who could have migrated it.
        upgrade(settings.database)
    elif not current_is_head(settings.database):
        raise FailedPrecondition("the database does not have the tables of this release: run `lorry-registry migrate`")
    store = open_store(settings.blob_store, _s3(settings))
    store.probe()
    return open_catalog(settings.database, _QUERY_THREADS), store


def _make_data_dir(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)


def _s3(settings: Settings) -> S3Settings:
    return S3Settings(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret(),
    )


def _assemble(
    catalog: SqlCatalog, store: BlobStore, queries: Pool, transfers: Pool, draining: asyncio.Event
) -> Registry:
    return Registry(
        catalog=catalog,
        store=store,
        queries=queries,
        transfers=transfers,
        publisher=Publisher(catalog, store, queries=queries, transfers=transfers),
        watcher=Watcher(catalog, queries, draining),
    )


def _services(parts: Registry) -> list[Service]:
    catalog, blobs = CatalogServicer(parts), BlobServicer(parts.store, parts.transfers)
    return [
        Service(
            "lorry.v1.CatalogService",
            lambda server: catalog_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, server),
        ),
        Service("lorry.v1.BlobService", lambda server: blob_pb2_grpc.add_BlobServiceServicer_to_server(blobs, server)),
    ]
