"""The worker's runtime as the rpc layer calls it.

Owns how the parts are put together, started and stopped. Everything it does, a part does: it adds
the gate that a draining worker shuts. Belongs to one event loop. Does not know the wire, torch, or
which engine it drives.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from compute_worker.contract import AdapterSource, Combiner, Engine, Tokenizer
from compute_worker.runtime.api import (
    BudgetUse,
    CombineCall,
    Combined,
    Delta,
    Finished,
    GenerateCall,
    ResidentState,
    RouteState,
    Started,
    Weighted,
)
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.combinations import Combinations
from compute_worker.runtime.combine import Combining
from compute_worker.runtime.disk import DiskCache
from compute_worker.runtime.generation import Generations, Line
from compute_worker.runtime.host import HostTier
from compute_worker.runtime.loader import Loader
from compute_worker.runtime.loop import EngineLoop
from compute_worker.runtime.pool import Pool
from compute_worker.runtime.residency import Ledger
from compute_worker.runtime.routes import Routes
from compute_worker.runtime.scheduler import Scheduler
from compute_worker.runtime.selection import Resolver
from compute_worker.runtime.version import Choice, Version
from compute_worker.runtime.waiting import Gate
from lorry.errors import InvalidInput

# Hashing, parsing and installing take a core each while they run: some at once, so that a small
# adapter overtakes a big one, but not so many that the engine starves.
_LOADERS = 4


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Budgets and limits of a worker.

    host_bytes, disk_bytes: budgets of the tiers. queue: most requests that wait. prefill_tokens:
    prompt tokens in one step. max_batch: most requests in one step. default_wait: seconds that a
    call waits for rows or KV where it has no deadline. tool: recorded in recipes, for example
    `lorry 0.1.0`. base_name: what the base model is called here.
    """

    cache_dir: Path
    host_bytes: int
    disk_bytes: int
    queue: int
    prefill_tokens: int
    max_batch: int
    default_wait: float
    tool: str
    base_name: str


class Runtime:
    """One base model, its adapters, its routes and its batch."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, source: AdapterSource, combiner: Combiner, settings: RuntimeSettings
    ) -> None:
        self.engine = engine
        self.settings = settings
        wait = settings.default_wait
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="lorry-load")
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="lorry-text")
        self._gate = Gate()
        self._line = Line(settings.queue)
        self._disk = DiskCache(settings.cache_dir, settings.disk_bytes, self._loaders, wait)
        self._ledger = Ledger(engine.limits.row_bytes, self._disk.has)
        self._disk.dropped = self._ledger.file_dropped
        self._made = Combinations(settings.cache_dir / "combined", engine.base.base_id, self._holds)
        loader = Loader(engine, self._disk, self._loaders, source.fetch)
        self._host = HostTier(loader, self._ledger, settings.host_bytes)
        self._pool = Pool(engine, self._ledger, self._host, self._loaders, wait)
        self._cache = AdapterCache(self._ledger, self._host, self._pool, wait)
        self._resolver = Resolver(source, self._made.get)
        self._routes = Routes(self._resolver, self._cache, self._pool)
        self._scheduler = Scheduler(engine.limits, settings.max_batch, settings.prefill_tokens)
        self._loop = EngineLoop(engine, self._scheduler)
        self._generations = Generations(
            engine,
            tokenizer,
            self._resolver,
            self._routes,
            self._cache,
            self._loop,
            executor=self._encoder,
            line=self._line,
            patience=wait,
        )
        self._combining = Combining(
            engine.base,
            source,
            combiner,
            self._resolver,
            loader,
            self._disk,
            cache=self._cache,
            made=self._made,
            executor=self._loaders,
            tool=settings.tool,
        )

    async def start(self) -> None:
        """Sweep and take stock of the disk cache, then start the engine's thread. Raises StorageUnavailable."""
        await self._disk.start()
        self._made.start()
        self._loop.start()

    async def drain(self) -> None:
        """Take nothing new (Draining), wait for the calls that run, then end the watches."""
        await self._gate.drain()
        self._ledger.close()

    async def close(self) -> None:
        """Fail what still runs with Draining, stop every thread, end every watch."""
        self._gate.shut()
        await self._loop.close()
        await self._combining.close()
        await self._host.close()
        await self._pool.close()
        await self._disk.close()
        self._ledger.close()
        self._loaders.shutdown()
        self._encoder.shutdown()

    async def generate(self, call: GenerateCall) -> AsyncGenerator[Started | Delta | Finished, None]:
        """Started, then deltas, then Finished. Closing or cancelling it frees KV and lease within one step.

        Raises InvalidInput and its kinds, NotFound's kinds, FailedPrecondition's kinds, QueueFull,
        CacheBusy, RequestTooLarge, RegistryUnavailable, StorageUnavailable, Draining,
        DeadlineExceeded, DigestMismatch, Internal.
        """
        with self._gate.inside():
            async with aclosing(self._generations.stream(call)) as items:
                async for item in items:
                    yield item

    async def switch(
        self, route: str, selection: tuple[Weighted, ...], expected_revision: int | None = None
    ) -> RouteState:
        """Point a route to a selection, once all of it is resident.

        expected_revision: what the route must have, 0: it must not exist, None: no condition.
        Raises InvalidName, RevisionConflict, and as `generate`.
        """
        with self._gate.inside():
            return await self._routes.switch(route, selection, expected_revision)

    def route(self, name: str) -> RouteState:
        """One route. Raises RouteNotFound."""
        return self._routes.get(name).state

    def routes(self) -> list[RouteState]:
        """All routes, by name."""
        return self._routes.states()

    async def load(self, adapter: str) -> ResidentState:
        """Bring an adapter into the pool. Raises as `generate`."""
        with self._gate.inside():
            return await self._cache.load(Choice(adapter, await self._resolver.version(adapter)))

    async def unload(self, adapter: str) -> tuple[str, bool]:
        """(Digest, whether it was resident). Raises AdapterPinned, AdapterInUse, what resolving raises."""
        with self._gate.inside():
            version = await self._resolver.version(adapter)
            return version.digest, await self._cache.unload(version)

    async def pin(self, adapter: str, *, unpin: bool = False, ttl: float | None = None) -> ResidentState:
        """Load and keep an adapter, for `ttl` seconds or until unpinned; or let it go. Raises as `generate`."""
        if ttl is not None and not (math.isfinite(ttl) and ttl > 0):
            raise InvalidInput(f"ttl: expected seconds above 0, got {ttl}")
        with self._gate.inside():
            version = await self._resolver.version(adapter)
            return self._cache.unpin(version) if unpin else await self._cache.pin(Choice(adapter, version), ttl)

    def residents(self) -> list[ResidentState]:
        """What is held, most recently used first."""
        return self._ledger.states()

    def watch(self) -> AsyncGenerator[tuple[ResidentState, bool], None]:
        """(State, True) for everything that is held, then (state, False) for each change of tier or pin.

        Raises Lagging where the caller does not keep up, Draining where the runtime closes.
        """
        return self._ledger.watch()

    async def combine(self, call: CombineCall) -> Combined:
        """Make a new adapter out of others. Raises as `generate`, InvalidCombination, UnsupportedCombination."""
        with self._gate.inside():
            return await self._combining.combine(call)

    def budgets(self) -> list[BudgetUse]:
        """Every budget and what is used of it."""
        limits, blocks = self.engine.limits, self._scheduler.blocks
        rows = self._pool.used
        return [
            BudgetUse("pool_rows", limits.pool_rows, rows),
            BudgetUse("pool_bytes", limits.pool_rows * limits.row_bytes, rows * limits.row_bytes),
            BudgetUse("host_bytes", self._host.budget, self._host.used),
            BudgetUse("disk_bytes", self._disk.budget, self._disk.used),
            BudgetUse("kv_tokens", blocks.count * blocks.block_tokens, blocks.used * blocks.block_tokens),
            BudgetUse("queue", self._line.limit, len(self._line.waiting)),
        ]

    def _holds(self, version: Version) -> bool:
        entry = self._ledger.entries.get(version.digest)
        near = entry is not None and (entry.start is not None or entry.host is not None)
        return near or all(self._disk.has(file.digest) for file in version.manifest.files)
