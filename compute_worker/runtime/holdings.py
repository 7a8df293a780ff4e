"""What the worker holds and how it keeps that right: tiers, names, routes, and the word to the registry.

Owns how these parts are put together, started and stopped. Everything it does, a part does. Does not
know requests, the batch, or the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from compute_worker.contract import AdapterSource, Engine
from compute_worker.runtime.aims import Aims
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.combinations import Combinations
from compute_worker.runtime.disk import DiskCache
from compute_worker.runtime.eviction import EVICTIONS
from compute_worker.runtime.files import FolderLock
from compute_worker.runtime.following import Following
from compute_worker.runtime.heartbeat import Heartbeat
from compute_worker.runtime.host import HostTier
from compute_worker.runtime.known import Known
from compute_worker.runtime.loader import Loader
from compute_worker.runtime.names import Names, Withdrawn
from compute_worker.runtime.pool import Pool
from compute_worker.runtime.residency import Ledger
from compute_worker.runtime.routebook import RouteBook
from compute_worker.runtime.routes import Routes
from compute_worker.runtime.selection import Resolver
from compute_worker.runtime.sessions import Sessions
from compute_worker.runtime.settings import RuntimeSettings
from compute_worker.runtime.version import Version


class Holdings:
    """The adapters of a worker. Belongs to the event loop; slow work runs in the executor's threads.

    served: what a tenant was served so far: who was served less comes first where rows are short.
    """

    def __init__(
        self,
        engine: Engine,
        source: AdapterSource,
        executor: Executor,
        settings: RuntimeSettings,
        served: Callable[[str], int],
    ) -> None:
        folder, wait, base_id = settings.cache_dir, settings.default_wait, engine.base.base_id
        self._lock = FolderLock(folder)
        policy = EVICTIONS[settings.eviction]  # one of its own for each tier, which hears of its own uses
        self.disk = DiskCache(folder, settings.disk_bytes, executor, policy(), patience=wait)
        self.ledger = Ledger(engine.limits.row_bytes, self.disk.has)
        self.disk.tally = self.ledger.tally
        self._known = Known(folder / "manifests", self.disk.has, settings.signatures)
        self.disk.dropped = self._file_dropped
        # What was combined under other rules may have sources that these refuse: it is not known, but made again.
        self.made = Combinations(folder / f"combined{settings.signatures.mark}", base_id, self._holds)
        self.loader = Loader(engine, self.disk, executor, source)
        self.host = HostTier(self.loader, self.ledger, policy(), settings.host_bytes)
        self.pool = Pool(engine, self.ledger, self.host, executor, policy(), served=served, patience=wait)
        self.cache = AdapterCache(
            self.ledger, self.disk, self.host, self.pool, self._known, self.loader, made=self.made.files, patience=wait
        )
        names, withdrawn = Names(), Withdrawn()
        self.resolver = Resolver(source, self._known, names, withdrawn, self.made.get)
        book = RouteBook(folder / "routes", base_id)
        self.routes = Routes(self.resolver, self.cache, self.pool, withdrawn, book)
        sessions = Sessions(settings.sessions, settings.session_seconds)
        self.aims = Aims(self.resolver, self.routes, withdrawn, sessions)
        self._following = Following(
            source, self.resolver, self._known, names, withdrawn, self.routes, cache=self.cache, patience=wait
        )
        self._heartbeat = Heartbeat(source, self.ledger, sessions.used, settings.holder, self._following.withdraw)
        self._following.heard = self._heartbeat.now
        self._following.families_changed = self.loader.forget_families

    async def start(self) -> None:
        """Lock and take stock of the cache folder, then listen to the registry.

        Raises AlreadyRunning, StorageUnavailable.
        """
        self._lock.take()
        try:
            await self.disk.start()
            self._known.start()
            self.made.start()
        except BaseException:
            self._lock.release()
            raise
        self._following.start()
        self.routes.start()
        self._heartbeat.start()

    async def close(self) -> None:
        """Stop every task, let go of the leases at the registry and of the folder, end every watch."""
        await self._heartbeat.close()
        await self._following.close()
        await self.routes.close()
        await self.host.close()
        await self.pool.close()
        await self.disk.close()
        self.ledger.close()
        self._lock.release()

    def _file_dropped(self, digest: str) -> None:
        self._known.file_dropped(digest)
        self.ledger.file_dropped(digest)

    def _holds(self, version: Version) -> bool:
        entry = self.ledger.entries.get(version.digest)
        near = entry is not None and (entry.start is not None or entry.host is not None)
        return near or all(self.disk.has(file.digest) for file in version.manifest.files)
