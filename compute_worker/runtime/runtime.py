"""The worker's runtime as the rpc layer calls it.

Owns how the parts are put together, started and stopped. Everything it does, a part does: it adds
the gate that a draining worker shuts. Belongs to one event loop. Does not know the wire, torch, or
which engine it drives.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from compute_worker.combination import Combiner
from compute_worker.contract import AdapterSource, Engine
from compute_worker.runtime.api import (
    BudgetUse,
    CombineCall,
    Combined,
    Delta,
    Finished,
    GenerateCall,
    ItemScore,
    ResidentState,
    RouteState,
    RouteTarget,
    ScoreCall,
    Started,
    Tier,
)
from compute_worker.runtime.combine import Combining
from compute_worker.runtime.generation import Generations
from compute_worker.runtime.holdings import Holdings
from compute_worker.runtime.line import Line
from compute_worker.runtime.loop import EngineLoop
from compute_worker.runtime.rights import Homes
from compute_worker.runtime.scheduler import Scheduler
from compute_worker.runtime.scoring import Scorings
from compute_worker.runtime.settings import RuntimeSettings
from compute_worker.runtime.tally import Busiest, Steps, Tally, Uses
from compute_worker.runtime.targets import Targets
from compute_worker.runtime.tokenizers import Tokenizers
from compute_worker.runtime.traffic import Traffic
from compute_worker.runtime.version import Choice
from compute_worker.runtime.waiting import Gate
from compute_worker.wording import Tokenizer
from lorry.errors import InvalidInput

# How long a drained worker waits for the step that runs: longer than a step, shorter than its server waits.
_LAST_STEP_SECONDS = 0.5
# How long its callers have to read what is left for them.
_LAST_WORDS_SECONDS = 2.0
# Hashing, parsing and installing take a core each while they run: some at once, so that a small
# adapter overtakes a big one, but not so many that the engine starves.
_LOADERS = 4


@dataclass(frozen=True, slots=True)
class Figures:
    """The runtime in numbers. running: requests in the batch. tiers: adapters by the fastest tier that has them."""

    budgets: Sequence[BudgetUse]
    running: int
    tiers: Mapping[Tier, int]
    steps: Steps
    tally: Tally
    requests: Busiest[str, Uses]
    traffic: Traffic


class Runtime:
    """One base model, its adapters, its routes and its batch."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, source: AdapterSource, combiner: Combiner, settings: RuntimeSettings
    ) -> None:
        self.engine = engine
        self.settings = settings
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="lorry-load")
        self._gate = Gate()
        self._line = Line(settings.queue)
        limits = engine.limits if settings.speculation else replace(engine.limits, draft_tokens=0)
        self._scheduler = Scheduler(limits, settings.max_batch, settings.prefill_tokens)
        self._held = Holdings(engine, source, self._loaders, settings, self._scheduler.shares.served)
        self._loop = EngineLoop(engine, self._scheduler)
        self.broken = self._loop.broken
        held = self._held
        self._tokenizers = Tokenizers(tokenizer, held.disk, held.loader, self._loaders)
        self._generations = Generations(
            engine,
            self._tokenizers,
            held.aims,
            held.cache,
            self._loop,
            line=self._line,
            patience=settings.default_wait,
        )
        self._scorings = Scorings(
            engine,
            self._tokenizers,
            Targets(held.resolver, held.routes),
            held.cache,
            self._loop,
            line=self._line,
            numbers=self._generations.numbers,
            requests=self._generations.requests,
            patience=settings.default_wait,
        )
        self._combining = Combining(
            engine,
            source,
            combiner,
            held.resolver,
            held.loader,
            held.disk,
            cache=held.cache,
            made=held.made,
            executor=self._loaders,
            tool=settings.tool,
        )

    async def start(self) -> None:
        """Lock and take stock of the cache folder, start the engine's thread, listen to the registry.

        Raises AlreadyRunning, StorageUnavailable.
        """
        await self._held.start()
        self._loop.start()

    async def drain(self, grace: float) -> None:
        """Take nothing new (Draining), give running calls `grace` seconds, end them and the watches likewise."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._gate.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_STEP_SECONDS):
                await self._loop.close()
        # What ran has its end in its queue now. One that is cancelled while it sends could not tell it any more.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._gate.drain()
        self._gate.cut()
        self._held.ledger.close()

    async def close(self) -> None:
        """Fail what still runs with Draining, stop every thread, end every watch."""
        self._gate.shut()
        await self._loop.close()
        await self._combining.close()
        await self._tokenizers.close()
        await self._held.close()
        self._loaders.shutdown()

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

    async def score(self, call: ScoreCall) -> AsyncGenerator[ItemScore, None]:
        """The score of each item, in the order in which they are done. Closing it frees everything.

        Raises as `generate`; the first failure ends the call.
        """
        with self._gate.inside():
            async with aclosing(self._scorings.stream(call)) as scores:
                async for score in scores:
                    yield score

    async def switch(
        self, route: str, targets: Sequence[RouteTarget], expected_revision: int | None = None
    ) -> RouteState:
        """Point a route to branches, once all of them are resident.

        expected_revision: what the route must have, 0: it must not exist, None: no condition.
        Raises InvalidName, RevisionConflict, and as `generate`.
        """
        with self._gate.inside():
            return await self._held.routes.switch(route, targets, expected_revision)

    async def rollback(self, route: str, revision: int, expected_revision: int | None = None) -> RouteState:
        """Give a route the branches of an earlier revision, 0: of the one before. Raises RouteNotFound,
        NoEarlierVersion, and as `switch`.
        """
        with self._gate.inside():
            return await self._held.routes.rollback(route, revision, expected_revision)

    def delete_route(self, route: str, expected_revision: int | None = None) -> None:
        """Have a route no more. Raises RouteNotFound, RevisionConflict, StorageUnavailable, InvalidInput."""
        self._held.routes.remove(route, expected_revision)

    def route(self, name: str) -> RouteState:
        """One route. Raises RouteNotFound."""
        return self._held.routes.get(name).state

    def route_history(self, name: str) -> Sequence[RouteState]:
        """The revisions of a route that are kept, the present one too, oldest first. Raises RouteNotFound."""
        return self._held.routes.get(name).history

    def routes(self) -> list[RouteState]:
        """All routes, by name."""
        return self._held.routes.states()

    def homes(self, reference: str) -> Homes:
        """The namespaces that decide about a reference. Raises InvalidReference, InvalidName."""
        return self._held.resolver.homes(reference)

    def route_homes(self, name: str) -> Homes:
        """The namespaces that decide about a route: those of its adapters, none where there is no such route."""
        return self._held.aims.route_homes(name)

    def rollback_homes(self, name: str, revision: int) -> Homes:
        """The namespaces that decide about what a rollback would bring. Raises RouteNotFound, NoEarlierVersion."""
        return self._held.routes.get(name).past(revision).homes

    def session_homes(self, caller: str, session: str, *, follow: bool) -> Homes | None:
        """The namespaces that decide about what a session keeps or, where it follows, gets; None: there is none."""
        return self._held.aims.session_homes(caller, session, follow=follow)

    async def load(self, adapter: str, tier: Tier = Tier.POOL) -> ResidentState:
        """Bring an adapter into a tier, or a nearer one. Raises as `generate`."""
        with self._gate.inside():
            version = await self._held.resolver.version(adapter, asked_anew=True)
            return await self._held.cache.load(Choice(adapter, version), tier)

    async def unload(self, adapter: str) -> tuple[str, bool]:
        """(Digest, whether it was resident). Raises AdapterPinned, AdapterInUse, what resolving raises."""
        with self._gate.inside():
            version = await self._held.resolver.version(adapter, asked_anew=True)
            return version.digest, await self._held.cache.unload(version)

    async def pin(self, adapter: str, *, unpin: bool = False, ttl: float | None = None) -> ResidentState:
        """Load and keep an adapter, for `ttl` seconds or until unpinned; or let it go. Raises as `generate`."""
        if ttl is not None and not (math.isfinite(ttl) and ttl > 0):
            raise InvalidInput(f"ttl: expected seconds above 0, got {ttl}")
        with self._gate.inside():
            version = await self._held.resolver.version(adapter, asked_anew=True)
            return (
                self._held.cache.unpin(version) if unpin else await self._held.cache.pin(Choice(adapter, version), ttl)
            )

    def residents(self) -> list[ResidentState]:
        """What is held, most recently used first."""
        return self._held.ledger.states()

    def watch(self) -> AsyncGenerator[tuple[ResidentState, bool], None]:
        """(State, True) for everything that is held, then (state, False) for each change of tier or pin.

        Raises Lagging where the caller does not keep up, Draining where the runtime closes.
        """
        return self._held.ledger.watch()

    async def combine(self, call: CombineCall) -> Combined:
        """Make a new adapter out of others. Raises as `generate`, InvalidCombination, UnsupportedCombination."""
        with self._gate.inside():
            return await self._combining.combine(call)

    def figures(self) -> Figures:
        """What is going on, and what was counted since the start."""
        return Figures(
            budgets=self.budgets(),
            running=self._scheduler.running,
            tiers=Counter(state.tier for state in self.residents()),
            steps=self._scheduler.steps,
            tally=self._held.ledger.tally,
            requests=self._generations.requests,
            traffic=self._generations.traffic,
        )

    def budgets(self) -> list[BudgetUse]:
        """Every budget and what is used of it."""
        limits, blocks = self.engine.limits, self._scheduler.blocks
        rows = self._held.pool.used
        return [
            BudgetUse("base_bytes", limits.base_bytes, limits.base_bytes),
            BudgetUse("pool_rows", limits.pool_rows, rows),
            BudgetUse("pool_bytes", limits.pool_rows * limits.row_bytes, rows * limits.row_bytes),
            BudgetUse("host_bytes", self._held.host.budget, self._held.host.used),
            BudgetUse("disk_bytes", self._held.disk.budget, self._held.disk.used),
            BudgetUse("kv_tokens", blocks.count * blocks.block_tokens, blocks.used * blocks.block_tokens),
            BudgetUse("kv_bytes", blocks.count * limits.block_bytes, blocks.used * limits.block_bytes),
            BudgetUse("prefix_tokens", blocks.count * blocks.block_tokens, blocks.kept * blocks.block_tokens),
            BudgetUse("queue", self._line.limit, len(self._line.waiting)),
        ]
