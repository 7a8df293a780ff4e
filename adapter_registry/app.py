"""The registry, wired: settings in, a serving process out.

Owns which part gets which other part, and the order of start and stop. Does not know how any of them
works; it is the one place that sees SQL, blob stores and the wire together.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

from adapter_registry.blobs.cached import CachedStore, CacheSettings
from adapter_registry.blobs.factory import open_store
from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.domain.acting import REGISTRY, acting
from adapter_registry.domain.principals import NewPrincipal
from adapter_registry.metrics import State, registry_metrics
from adapter_registry.rpc.access import AccessServicer
from adapter_registry.rpc.access_guard import AccessGuard
from adapter_registry.rpc.admin import AdminServicer
from adapter_registry.rpc.blobs import BlobServicer, add_blob_service
from adapter_registry.rpc.catalog import CatalogServicer
from adapter_registry.service.access import Access, check_principal, hash_of, new_token
from adapter_registry.service.fsck import Checker
from adapter_registry.service.garbage import GarbageCollector, Keeping
from adapter_registry.service.health import Check, StoreQuestion, watch_health
from adapter_registry.service.pool import Pool, Pools
from adapter_registry.service.publish import Publisher
from adapter_registry.service.registry import Registry
from adapter_registry.service.stored import StoredBlobs
from adapter_registry.service.upkeep import alongside, collect_regularly, measure_regularly
from adapter_registry.service.verdicts import Judging
from adapter_registry.service.watching import Watcher
from adapter_registry.settings import Settings
from adapter_registry.store.catalog import SqlCatalog, open_catalog
from adapter_registry.store.migrate import current_is_head, upgrade
from lorry.errors import FailedPrecondition
from lorry.format.digest import digest_of
from lorry.rpc.interceptor import CallWatcher
from lorry.rpc.logs import AccessLog
from lorry.rpc.malloc import keep_memory
from lorry.rpc.metrics import CallMetrics, OnLoop, exposing
from lorry.rpc.serving import Door, Listening, Service, serving, stop_signal
from lorry.v1 import access_pb2_grpc, admin_pb2_grpc, catalog_pb2_grpc

_log = logging.getLogger(__name__)

# More than 8 do not make SQLite or PostgreSQL faster on small machines. Of those that write one works and the
# others wait for it, or judge what they are about to write.
_QUERY_THREADS = 8
_WRITE_THREADS = 4
# One for each thread that may be in the database, the one that removes among them.
_CONNECTIONS = _QUERY_THREADS + _WRITE_THREADS + 1
# Blob I/O waits for disks and S3 more than it computes; below the S3 store's 64 connections.
_TRANSFER_THREADS = 16
# Nobody has it: a question that costs a store as little as any.
_NO_BLOB = digest_of(b"no blob has this content")


def migrate(settings: Settings) -> None:
    """Bring the database to the tables of this release. Raises InvalidInput, StorageUnavailable."""
    _make_data_dir(settings)
    upgrade(settings.database)


def create_token(settings: Settings, new: NewPrincipal) -> str:
    """Make a principal on the database itself, for whoever may use it: how the first administrator comes in.

    Returns the token. Raises PrincipalConflict, InvalidInput, InvalidName, StorageUnavailable,
    FailedPrecondition where the database has to be migrated first.
    """
    _make_data_dir(settings)
    _prepare(settings)
    token = new_token()
    catalog = open_catalog(settings.database, pool_size=1)
    try:
        with acting(replace(REGISTRY, action="CreatePrincipal")):
            catalog.create_principal(replace(check_principal(new), secret_hash=hash_of(token)))
    finally:
        catalog.close()
    return token


@asynccontextmanager
async def registry(settings: Settings) -> AsyncIterator[str]:
    """Serve for the time of the block; yields `host:port` as bound.

    Raises CannotListen, StorageUnavailable, InvalidInput, and FailedPrecondition where the database
    has to be migrated first.
    """
    draining = asyncio.Event()
    pools = Pools.of(queries=_QUERY_THREADS, writes=_WRITE_THREADS, transfers=_TRANSFER_THREADS)
    # Threads of their own: work that takes long does not look like illness.
    health = Pool(2, "health")
    try:
        catalog, store = await pools.queries.run(_resources, settings)
        try:
            access = Access(catalog, pools, required=settings.auth == "required")
            parts = _assemble(catalog, store, pools, draining, access, _keeping(settings))
            calls, state = CallMetrics(), State()
            watchers: list[CallWatcher] = [AccessLog(every=settings.access_log), calls]
            async with (
                exposing(settings.metrics_listen, [calls, OnLoop(lambda: registry_metrics(parts, state))]),
                parts.judging.running(),
                parts.watcher.running(),
                serving(
                    settings.listen,
                    _services(parts),
                    draining=draining,
                    grace=settings.grace_seconds,
                    door=Door(settings.tls, [AccessGuard(access)], watchers),
                ) as listening,
                alongside(
                    collect_regularly(parts.collector, settings.gc_seconds),
                    watch_health(
                        _checks(catalog, store, health), settings.health_seconds, partial(_tell, state, listening)
                    ),
                    *([measure_regularly(state.held, catalog.held, pools.queries)] if settings.metrics_listen else []),
                ),
            ):
                yield listening.address
        finally:
            await pools.queries.run(catalog.close)
    finally:
        pools.close()
        health.close()


async def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `ready` gets the bound address. Raises what registry raises."""
    keep_memory()
    _open_many_files()
    async with registry(settings) as address:
        _log.info("serving on %s", address)
        ready(address)
        await stop_signal()
        _log.info("draining")


def _open_many_files() -> None:
    """As many as this process may: the usual 1,024 are sixteen principals with all their uploads."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _tell(state: State, listening: Listening, *, well: bool) -> None:
    state.well = well
    await listening.set_health(well=well)


def _resources(settings: Settings) -> tuple[SqlCatalog, BlobStore]:
    _make_data_dir(settings)
    _prepare(settings)
    cache = None if settings.cache_dir is None else CacheSettings(settings.cache_dir, settings.cache_bytes)
    store = open_store(settings.blob_store, _s3(settings), cache)
    store.probe()
    return open_catalog(settings.database, _CONNECTIONS), store


def _prepare(settings: Settings) -> None:
    if settings.database.startswith("sqlite"):
        # The embedded default has no operator who could have migrated it.
        upgrade(settings.database)
    elif not current_is_head(settings.database):
        raise FailedPrecondition("the database does not have the tables of this release: run `lorry-registry migrate`")


def _make_data_dir(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)


def _s3(settings: Settings) -> S3Settings:
    return S3Settings(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret(),
        timeout=settings.s3_timeout_seconds,
    )


def _assemble(
    catalog: SqlCatalog,
    store: BlobStore,
    pools: Pools,
    draining: asyncio.Event,
    access: Access,
    keeping: Keeping,
) -> Registry:
    blobs = StoredBlobs(store, catalog, pools)
    return Registry(
        catalog=catalog,
        namespaces=catalog,
        store=store,
        blobs=blobs,
        pools=pools,
        publisher=Publisher(catalog, blobs, pools),
        watcher=Watcher(catalog, pools.queries, draining),
        access=access,
        judging=Judging(catalog, store, pools, draining),
        collector=GarbageCollector(catalog, store, pools, keeping),
        checker=Checker(catalog, _origin(store), pools),
    )


def _origin(store: BlobStore) -> BlobStore:
    return store.origin if isinstance(store, CachedStore) else store


def _keeping(settings: Settings) -> Keeping:
    return Keeping(
        unnamed=timedelta(seconds=settings.keep_seconds),
        events=timedelta(days=settings.event_days),
        audit=timedelta(days=settings.audit_days) if settings.audit_days else None,
    )


def _checks(catalog: SqlCatalog, store: BlobStore, pool: Pool) -> list[Check]:
    look = partial(store.missing, [_NO_BLOB])
    return [Check("database", catalog.probe, pool), Check("blob store", StoreQuestion(look, store.probe), pool)]


def _services(parts: Registry) -> list[Service]:
    catalog, blobs = CatalogServicer(parts), BlobServicer(parts.blobs)
    access, admin = AccessServicer(parts), AdminServicer(parts)
    return [
        Service(
            "lorry.v1.CatalogService",
            lambda server: catalog_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, server),
        ),
        Service("lorry.v1.BlobService", lambda server: add_blob_service(blobs, server)),
        Service(
            "lorry.v1.AccessService",
            lambda server: access_pb2_grpc.add_AccessServiceServicer_to_server(access, server),
        ),
        Service(
            "lorry.v1.AdminService", lambda server: admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
        ),
    ]
